//! Certificates made for a test, in DER. No key is ever written down.

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

/// Who issues certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub der: Vec<u8>,
}

/// A certificate with its key.
#[derive(Clone)]
pub struct Issued {
    /// The certificate first, then what fills the chain.
    pub chain: Vec<Vec<u8>>,
    /// PKCS #8.
    pub key: Vec<u8>,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        Self { der: certificate.der().to_vec(), issuer: Issuer::new(params, key) }
    }

    /// A certificate for `name`, good for both sides.
    pub fn issue(&self, name: &str) -> Issued {
        self.issue_with(name, KeyPair::generate().expect("a key"), |_| {})
    }

    /// One whose time is over.
    pub fn issue_expired(&self, name: &str) -> Issued {
        self.issue_with(name, KeyPair::generate().expect("a key"), |params| {
            params.not_before = date_time_ymd(2001, 1, 1);
            params.not_after = date_time_ymd(2002, 1, 1);
        })
    }

    /// One that is longer than usual by `bytes`.
    pub fn issue_long(&self, name: &str, bytes: usize) -> Issued {
        self.issue_with(name, KeyPair::generate().expect("a key"), |params| {
            let filling = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99_999, 1], vec![0; bytes]);
            params.custom_extensions.push(filling);
        })
    }

    pub fn issue_with(&self, name: &str, key: KeyPair, change: impl FnOnce(&mut CertificateParams)) -> Issued {
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        Issued { chain: vec![certificate.der().to_vec()], key: key.serialize_der() }
    }
}

/// An RSA key of 2048 bits, made by the command `openssl`: ring can use such keys but not make them. `None` if there is no such command.
pub fn rsa_key() -> Option<KeyPair> {
    let arguments = ["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"];
    let output = std::process::Command::new("openssl").args(arguments).stderr(std::process::Stdio::null()).output();
    let Some(output) = output.ok().filter(|output| output.status.success()) else {
        eprintln!("skipped for RSA: there is no command openssl");
        return None;
    };
    let pem = String::from_utf8(output.stdout).expect("PEM is text");
    Some(KeyPair::from_pem(&pem).expect("a key"))
}

/// DER as PEM.
pub fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", base64(der))
}

/// In lines of 64 digits.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let lines = bytes.chunks(48).map(|line| {
        let digits = line.chunks(3).flat_map(|chunk| {
            let bits = chunk.iter().fold(0, |bits, &byte| bits << 8 | u32::from(byte)) << (8 * (3 - chunk.len()));
            (0..4).map(move |number| match number <= chunk.len() {
                true => char::from(DIGITS[(bits >> (18 - 6 * number)) as usize & 63]),
                false => '=',
            })
        });
        digits.collect::<String>()
    });
    lines.collect::<Vec<_>>().join("\n")
}
