//! Frames of HTTP/2, as a client sends them (RFC 9113, 4.1 and 6).

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

pub fn frame(into: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    into.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    into.extend_from_slice(&[kind, flags]);
    into.extend_from_slice(&stream.to_be_bytes());
    into.extend_from_slice(payload);
}

/// The preface and settings: this client takes whatever comes.
pub fn hello() -> Vec<u8> {
    let mut bytes = PREFACE.to_vec();
    let mut settings = Vec::new();
    // SETTINGS_INITIAL_WINDOW_SIZE.
    settings.extend_from_slice(&[0, 4]);
    settings.extend_from_slice(&(i32::MAX as u32).to_be_bytes());
    frame(&mut bytes, SETTINGS, 0, 0, &settings);
    frame(&mut bytes, WINDOW_UPDATE, 0, 0, &(i32::MAX as u32 - 65_535).to_be_bytes());
    bytes
}

/// `:method POST`, `:scheme http`, `:path /`, from the static table of HPACK (RFC 7541, A), and `:authority a`.
pub fn request() -> Vec<u8> {
    vec![0x83, 0x86, 0x84, 0x41, 1, b'a']
}

/// A header from the static table, a byte on the wire: `accept` without a value, which counts as 38 bytes.
pub const ACCEPT: u8 = 0x80 | 19;
pub const ACCEPT_BYTES: usize = 38;
