//! The broadcast as a whole: what is measured must first be right.

use std::process::Command;

#[test]
fn the_tokio_broadcast_sends_every_byte_to_every_connection() {
    let output = Command::new(env!("CARGO_BIN_EXE_broadcast"))
        .args(["--rounds", "1", "--slice-ms", "50", "--connections", "20", "--server", "tokio"])
        .output()
        .expect("it starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(table.contains("| tokio | 1 | "), "{table}");
}
