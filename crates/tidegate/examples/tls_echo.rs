//! An echo server behind TLS: the handler of `echo`, a filter below it.
//!
//! ```console
//! $ cargo run --release --example tls_echo -p tidegate --features tls
//! $ openssl s_client -quiet -connect 127.0.0.1:7007
//! ```
//!
//! The arguments are an address, a file with the certificate chain, and one with the private key (`-- 0.0.0.0:7007 chain.pem key.pem`). Without
//! files it makes a certificate for `localhost` that nobody has signed, to try it out, and says in which file it is: clients verify it
//! with that (`curl --cacert`, `openssl s_client -CAfile`).

use std::convert::Infallible;
use std::env;
use std::error::Error;

use tidegate::filter::tls::{Identity, TlsServer};
use tidegate::{Buffer, Connection, Handler, Listener, Server};

struct Echo;

impl Handler for Echo {
    type Message = Infallible;

    fn on_read(&mut self, connection: &mut Connection<'_>, data: Buffer) {
        let _ = connection.send(data); // plain bytes in, plain bytes out: the filter below does the rest
    }
}

/// A certificate for trying it out, signed with its own key. The key is in no file.
fn self_signed() -> Result<Identity, Box<dyn Error>> {
    let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let file = env::temp_dir().join(format!("tls-echo-{}.pem", std::process::id()));
    std::fs::write(&file, cert.pem())?;
    println!("certificate for localhost in {}", file.display());
    Ok(Identity::from_der(vec![cert.der().to_vec()], signing_key.serialize_der())?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let address = arguments.next().unwrap_or("127.0.0.1:7007".into()).parse()?;
    let identity = match (arguments.next(), arguments.next()) {
        (Some(chain), Some(key)) => Identity::from_pem_files(chain, key)?,
        (Some(_), None) => return Err("the private key is missing: give a file with it too".into()),
        (None, _) => self_signed()?,
    };
    // Its memory is declared ahead: it is a term of the ceiling.
    let tls = TlsServer::builder(identity).build()?;
    let server = Server::builder().listen(Listener::tcp(address).filter(tls), |_| Echo).bind()?;
    println!("listening on {}", server.local_addrs()[0]);
    println!(
        "at most {} bytes of memory, {} of them for TLS",
        server.ceiling().total(),
        server.ceiling().filters_bytes
    );
    server.run()?;
    Ok(())
}
