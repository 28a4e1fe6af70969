use std::io::{self, Read, Write};

use openssl::ssl::{Ssl, SslContext, SslMethod, SslVersion};

use crate::accept::sniff::client_hello::*;

/// Takes what a client says first and never answers.
#[derive(Debug)]
struct Deaf<'a>(&'a mut Vec<u8>);

impl Read for Deaf<'_> {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }
}

impl Write for Deaf<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What OpenSSL's client says first.
fn from_openssl(name: Option<&str>, alpn: &[u8], max: SslVersion) -> Vec<u8> {
    let mut context = SslContext::builder(SslMethod::tls_client()).unwrap();
    context.set_max_proto_version(Some(max)).unwrap();
    let mut ssl = Ssl::new(&context.build()).unwrap();
    if let Some(name) = name {
        ssl.set_hostname(name).unwrap();
    }
    if !alpn.is_empty() {
        ssl.set_alpn_protos(alpn).unwrap();
    }
    let mut said = Vec::new();
    ssl.connect(Deaf(&mut said)).unwrap_err();
    said
}

fn vector16(content: &[u8]) -> Vec<u8> {
    [&u16::try_from(content.len()).unwrap().to_be_bytes(), content].concat()
}

fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &vector16(content)].concat()
}

fn name_extension(name: &str) -> Vec<u8> {
    extension(SERVER_NAME, &vector16(&[&[0], &vector16(name.as_bytes())[..]].concat()))
}

/// A ClientHello with these extensions, without records around it.
fn bare(extensions: &[Vec<u8>]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend_from_slice(&[7; 32]);
    body.extend_from_slice(&[0, 0, 2, 0x13, 0x01, 1, 0]);
    body.extend_from_slice(&vector16(&extensions.concat()));
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[CLIENT_HELLO], &length[1..], &body].concat()
}

fn records(message: &[u8], size: usize) -> Vec<u8> {
    message.chunks(size).flat_map(|part| [&[HANDSHAKE, 3, 1], &vector16(part)[..]].concat()).collect()
}

fn with(extensions: &[Vec<u8>]) -> Vec<u8> {
    records(&bare(extensions), LONGEST_RECORD)
}

fn read(bytes: &[u8]) -> Result<Option<Hello>, Flaw> {
    Assembly::default().read(bytes)
}

fn hello(name: Option<&str>, protocols: &[&str]) -> Hello {
    let protocols = protocols.iter().map(|p| p.as_bytes().to_vec()).collect();
    Hello { server_name: name.map(str::to_owned), protocols }
}

#[test]
fn reads_what_openssl_says() {
    for max in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
        let said = from_openssl(Some("DB.example.com"), b"\x02h2\x08http/1.1", max);
        assert_eq!(read(&said), Ok(Some(hello(Some("db.example.com"), &["h2", "http/1.1"]))));
        assert_eq!(read(&from_openssl(None, b"", max)), Ok(Some(hello(None, &[]))));
    }
}

#[test]
fn any_split_of_a_hello_is_read_the_same() {
    let said = from_openssl(Some("db.example.com"), b"\x02h2", SslVersion::TLS1_3);
    let expected = Ok(Some(hello(Some("db.example.com"), &["h2"])));
    // Over records of every size, as a client that evades filters does.
    let message = &said[RECORD_HEADER..];
    for size in 1..=message.len() {
        assert_eq!(read(&records(message, size)), expected, "records of {size}");
    }
    // Over reads of every size.
    for bytes in [said.clone(), records(message, 7), records(message, 1)] {
        for step in 1..40 {
            let mut assembly = Assembly::default();
            let ends = (step..bytes.len()).step_by(step);
            for end in ends {
                assert_eq!(assembly.read(&bytes[..end]), Ok(None), "{end} of {}", bytes.len());
            }
            assert_eq!(assembly.read(&bytes), expected);
        }
    }
}

#[test]
fn what_follows_the_hello_does_not_matter() {
    let said = from_openssl(Some("db.example.com"), b"", SslVersion::TLS1_3);
    let followed = [&said[..], b"\x14\x03\x03\0\x01\x01 and more"].concat();
    assert_eq!(read(&followed), read(&said));
}

#[test]
fn made_up_values_are_skipped() {
    let said = with(&[
        extension(0x0a0a, b""),
        extension(APPLICATION_PROTOCOLS, &vector16(b"\x02\x5a\x5a\x02h2")),
        name_extension("a.example"),
        extension(0xfafa, b"\0"),
    ]);
    let read = read(&said).unwrap().unwrap();
    assert_eq!(read.server_name.as_deref(), Some("a.example"));
    assert_eq!(read.protocols, [b"ZZ".to_vec(), b"h2".to_vec()]);
}

#[test]
fn a_hello_without_extensions_names_nobody() {
    let mut message = bare(&[]);
    message.truncate(message.len() - 2);
    message[3] -= 2;
    assert_eq!(read(&records(&message, 100)), Ok(Some(Hello::default())));
}

#[test]
fn a_final_dot_is_no_part_of_the_name() {
    assert_eq!(read(&with(&[name_extension("a.example.")])), Ok(Some(hello(Some("a.example"), &[]))));
}

#[test]
fn what_could_be_read_in_two_ways_is_refused() {
    let list = |entries: &[u8]| extension(SERVER_NAME, &vector16(entries));
    let two = [&[0][..], &vector16(b"a.example"), &[0], &vector16(b"b.example")].concat();
    let alpn = || extension(APPLICATION_PROTOCOLS, &vector16(b"\x02h2"));
    for (extensions, what) in [
        (vec![name_extension("a.example"), name_extension("b.example")], "second server name"),
        (vec![list(&two)], "server name"),
        (vec![name_extension("")], "server name"),
        (vec![name_extension(".")], "server name"),
        (vec![name_extension("a\0.example")], "server name"),
        (vec![name_extension("a example")], "server name"),
        (vec![name_extension("b\u{fc}cher.example")], "server name"),
        (vec![name_extension(&"a".repeat(256))], "server name"),
        (vec![list(&[])], "server name"),
        (vec![list(&[&[1][..], &vector16(b"a")].concat())], "server name"),
        (vec![extension(SERVER_NAME, b"")], "server name"),
        (vec![alpn(), alpn()], "second list of protocols"),
        (vec![extension(APPLICATION_PROTOCOLS, &vector16(b""))], "list of protocols"),
        (vec![extension(APPLICATION_PROTOCOLS, &vector16(b"\0"))], "list of protocols"),
        (vec![extension(APPLICATION_PROTOCOLS, &vector16(b"\x05h2"))], "list of protocols"),
        (vec![vec![0, 0, 0]], "extension"),
        (vec![vec![0, 0, 0, 9, 1]], "extension"),
    ] {
        assert_eq!(read(&with(&extensions)), Err(Flaw::Malformed(what)), "{extensions:?}");
    }
}

#[test]
fn garbage_is_told_from_other_protocols() {
    let tls = |kind, content: &[u8]| [&[kind, 3, 1], &vector16(content)[..]].concat();
    let large = [CLIENT_HELLO, 1, 0, 0];
    let short_body = [&[CLIENT_HELLO, 0, 0, 10], &[3; 10][..]].concat();
    for (bytes, flaw) in [
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), Flaw::PlainHttp),
        (b"PRI * HTTP/2.0\r\n".to_vec(), Flaw::PlainHttp),
        (b"SSH-2.0-x\r\n".to_vec(), Flaw::NotTls),
        (vec![0x80, 0x2e, 1, 3, 1], Flaw::NotTls),
        (vec![0; 100], Flaw::NotTls),
        (vec![HANDSHAKE, 9], Flaw::NotTls),
        (tls(21, &[2, 40]), Flaw::Unexpected),
        (tls(23, b"data"), Flaw::Unexpected),
        (tls(HANDSHAKE, &[2, 0, 0, 0]), Flaw::Unexpected),
        (tls(HANDSHAKE, b""), Flaw::Malformed("record length")),
        (vec![HANDSHAKE, 3, 1, 0xff, 0xff], Flaw::Malformed("record length")),
        (tls(HANDSHAKE, &large), Flaw::TooLong),
        (tls(HANDSHAKE, &short_body), Flaw::Malformed("random")),
        ([tls(HANDSHAKE, &[CLIENT_HELLO]), tls(20, &[1])].concat(), Flaw::Unexpected),
        ([tls(HANDSHAKE, &[CLIENT_HELLO]), vec![HANDSHAKE, 2]].concat(), Flaw::Malformed("record version")),
    ] {
        assert_eq!(read(&bytes), Err(flaw), "{bytes:?}");
    }
}

#[test]
fn one_byte_of_an_alert_is_not_judged_before_the_next() {
    for (bytes, expected) in
        [(&[21][..], Ok(None)), (&[21, 3], Err(Flaw::Unexpected)), (&[21, b','], Err(Flaw::NotTls))]
    {
        assert_eq!(read(bytes), expected, "{bytes:?}");
    }
}

#[test]
fn the_longest_hello_is_read_and_a_longer_one_refused() {
    let padded = |length| bare(&[name_extension("a.example"), extension(21, &vec![0; length])]);
    let fits = records(&padded(LONGEST - 1000), LONGEST_RECORD);
    assert!(fits.len() <= LONGEST);
    assert_eq!(read(&fits), Ok(Some(hello(Some("a.example"), &[]))));
    // Its message would fit, but not with a header around every few bytes.
    let scattered = records(&padded(20_000), 2);
    assert_eq!(read(&scattered[..LONGEST]), Err(Flaw::TooLong));
}

#[test]
fn arbitrary_bytes_never_panic_and_are_not_waited_for_without_end() {
    let mut rng = fastrand::Rng::with_seed(7);
    let said = from_openssl(Some("db.example.com"), b"\x02h2\x08http/1.1", SslVersion::TLS1_3);
    for round in 0..6_000 {
        let mut bytes = records(&said[RECORD_HEADER..], rng.usize(1..said.len()));
        for _ in 0..rng.usize(..6) {
            let at = rng.usize(..bytes.len());
            bytes[at] = rng.u8(..);
        }
        if round % 3 == 0 {
            bytes.truncate(rng.usize(..bytes.len()));
        }
        let mut assembly = Assembly::default();
        let middle = rng.usize(..=bytes.len());
        if assembly.read(&bytes[..middle]) == Ok(None) {
            let whole = assembly.read(&bytes);
            assert_eq!(whole, read(&bytes), "the same in two parts as in one");
            bytes.resize(LONGEST, 0);
            assert_ne!(assembly.read(&bytes), Ok(None));
        }
    }
}

#[test]
fn alerts_are_records_of_their_own() {
    assert_eq!(Alert::UnrecognizedName.record(), [21, 3, 1, 0, 2, 2, 112]);
    assert_eq!(Flaw::PlainHttp.alert(), None);
    assert_eq!(Flaw::TooLong.alert(), Some(Alert::IllegalParameter));
}
