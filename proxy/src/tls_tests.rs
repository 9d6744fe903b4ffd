//! Handshakes over real sockets, with certificates made for the test.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{
    CipherSuite, HandshakeKind, ProtocolVersion, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    sign::{CertifiedKey, SingleCertAndKey},
};
use store::model::{BackendTls, ClientCertificate};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsConnector, client::TlsStream as ClientStream, rustls::ClientConfig};

use super::*;
use crate::testing::dns_names;

/// An authority of the test.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A certificate for these names and its key, changed a little.
    fn issue_with(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
        let names: Vec<String> = names.iter().map(|it| (*it).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    fn issue(&self, names: &[&str]) -> Identity {
        let (chain, key) = self.issue_with(names, |_| {});
        Identity::from_pem(chain.as_bytes(), key.as_bytes()).unwrap()
    }

    fn roots(&self) -> rustls::RootCertStore {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()).unwrap();
        roots
    }

    fn trusting(&self) -> ClientSettings {
        ClientSettings { authorities: Some(self.pem.clone().into_bytes()), ..ClientSettings::default() }
    }
}

/// What a server saw of a connection.
#[derive(Debug)]
struct Seen {
    kind: Option<HandshakeKind>,
    version: Option<ProtocolVersion>,
    /// The names of the client's certificate.
    peer: Option<Vec<String>>,
    protocol: Option<Vec<u8>>,
}

/// A handshake of a client with a server that shows these, and an exchange of a byte each way.
async fn meet(server: &ServerTls, client: &ClientTls, name: &str) -> Result<(Seen, Vec<u8>), String> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = server.acceptor().expect("it is set");
    let serving = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = acceptor.accept(stream).await?;
        stream.read_u8().await?;
        stream.write_u8(1).await?;
        stream.shutdown().await?;
        let (_, session) = stream.get_ref();
        Ok::<_, std::io::Error>(Seen {
            kind: session.handshake_kind(),
            version: session.protocol_version(),
            peer: dns_names(session.peer_certificates()),
            protocol: session.alpn_protocol().map(<[u8]>::to_vec),
        })
    });
    let stream = TcpStream::connect(address).await.unwrap();
    let talked = async {
        let mut stream: ClientStream<TcpStream> = client.connect(name, stream).await?;
        stream.write_u8(1).await?;
        stream.read_u8().await?;
        let shown = stream.get_ref().1.peer_certificates().and_then(|it| it.first()).map(|it| it.to_vec());
        Ok::<_, std::io::Error>(shown.unwrap_or_default())
    };
    let talked = talked.await.map_err(|error| error.to_string());
    let seen = serving.await.unwrap().map_err(|error| error.to_string());
    match (talked, seen) {
        (Ok(shown), Ok(seen)) => Ok((seen, shown)),
        (Err(client), _) => Err(client),
        (_, Err(server)) => Err(server),
    }
}

fn showing(settings: &ServerSettings) -> ServerTls {
    let server = ServerTls::default();
    assert!(server.acceptor().is_none());
    server.set(settings).unwrap();
    server
}

fn client(settings: &ClientSettings) -> ClientTls {
    ClientTls::new(settings).unwrap()
}

#[tokio::test]
async fn a_name_gets_its_certificate_and_others_the_first() {
    let authority = Authority::new();
    let names: [&[&str]; 4] =
        [&["a.example"], &["*.apps.example"], &["x.apps.example"], &["b.example", "c.example"]];
    let all: Vec<_> = names.iter().map(|it| authority.issue(it)).collect();
    let server = showing(&ServerSettings::new(all.clone()));
    // Whether the name fits is not looked at here, so that the default is seen as well.
    let anyone = client(&ClientSettings { unverified: true, ..ClientSettings::default() });
    for (name, which) in [
        ("a.example", 0),
        ("A.Example", 0),
        ("y.apps.example", 1),
        ("x.apps.example", 2),
        ("apps.example", 0),
        ("x.y.apps.example", 0),
        ("c.example", 3),
        ("unknown.example", 0),
        ("127.0.0.1", 0),
    ] {
        let (_, shown) = meet(&server, &anyone, name).await.unwrap();
        assert_eq!(shown, all[which].pair.cert[0].to_vec(), "{name}");
    }
}

#[tokio::test]
async fn sessions_are_resumed_at_any_worker_and_after_a_change_of_certificates() {
    let authority = Authority::new();
    for (min_version, tickets, kept_sessions, resumed) in [
        (Version::Tls13, true, 0, true),
        (Version::Tls12, true, 0, true),
        (Version::Tls13, false, 100, true),
        (Version::Tls13, false, 0, false),
    ] {
        let settings = ServerSettings {
            min_version,
            tickets,
            kept_sessions,
            ..ServerSettings::new(vec![authority.issue(&["a.example"])])
        };
        let server = showing(&settings);
        let client = client(&ClientSettings { min_version, ..authority.trusting() });
        let first = meet(&server, &client, "a.example").await.unwrap().0;
        assert_eq!(first.kind, Some(HandshakeKind::Full));
        assert_eq!(first.protocol.as_deref(), Some(HTTP_1_1));
        let changed =
            ServerSettings { identities: vec![authority.issue(&["a.example"])], ..settings.clone() };
        server.set(&changed).unwrap();
        let expected = if resumed { HandshakeKind::Resumed } else { HandshakeKind::Full };
        assert_eq!(meet(&server, &client, "a.example").await.unwrap().0.kind, Some(expected));
        // Another authority of clients: those that had a session must begin a new one.
        let clients = ClientCertificates::Optional(authority.pem.clone().into_bytes());
        server.set(&ServerSettings { client_certificates: clients, ..changed }).unwrap();
        assert_eq!(meet(&server, &client, "a.example").await.unwrap().0.kind, Some(HandshakeKind::Full));
    }
}

#[tokio::test]
async fn tickets_of_tls_1_2_resume_as_well() {
    let authority = Authority::new();
    let server = showing(&ServerSettings::new(vec![authority.issue(&["a.example"])]));
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&version::TLS12])
        .unwrap()
        .with_root_certificates(authority.roots())
        .with_no_client_auth();
    let client = ClientTls::of_config(TlsConnector::from(Arc::new(config.clone())));
    for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
        let seen = meet(&server, &client, "a.example").await.unwrap().0;
        assert_eq!((seen.kind, seen.version), (Some(kind), Some(ProtocolVersion::TLSv1_2)));
    }
    let newer = ServerSettings {
        min_version: Version::Tls13,
        ..ServerSettings::new(vec![authority.issue(&["a.example"])])
    };
    assert!(meet(&showing(&newer), &client, "a.example").await.is_err(), "1.2 with a server of 1.3");
}

#[tokio::test]
async fn clients_show_certificates_if_they_have_to() {
    let (ours, other) = (Authority::new(), Authority::new());
    let server = |client_certificates| {
        showing(&ServerSettings {
            client_certificates,
            ..ServerSettings::new(vec![ours.issue(&["a.example"])])
        })
    };
    let pem = || ours.pem.clone().into_bytes();
    let (none, optional, required) = (
        server(ClientCertificates::None),
        server(ClientCertificates::Optional(pem())),
        server(ClientCertificates::Required(pem())),
    );
    let of = |authority: &Authority| {
        let (chain, key) = authority.issue_with(&["client.example"], |_| {});
        let identity = Identity::from_pem(chain.as_bytes(), key.as_bytes()).unwrap();
        client(&ClientSettings { identity: Some(identity), ..ours.trusting() })
    };
    let (known, unknown, without) = (of(&ours), of(&other), client(&ours.trusting()));
    for server in [&optional, &required] {
        let peer = meet(server, &known, "a.example").await.unwrap().0.peer.unwrap();
        assert_eq!(peer, ["client.example"]);
        assert!(meet(server, &unknown, "a.example").await.is_err());
        // A resumed session knows the client as well.
        let again = meet(server, &known, "a.example").await.unwrap().0;
        assert_eq!((again.kind, again.peer), (Some(HandshakeKind::Resumed), Some(peer)));
    }
    assert_eq!(meet(&optional, &without, "a.example").await.unwrap().0.peer, None);
    assert!(meet(&required, &without, "a.example").await.is_err());
    assert_eq!(meet(&none, &known, "a.example").await.unwrap().0.peer, None);
}

#[tokio::test]
async fn instances_are_verified_unless_it_is_said_otherwise() {
    let (ours, other) = (Authority::new(), Authority::new());
    let server = showing(&ServerSettings::new(vec![ours.issue(&["a.example"])]));
    assert!(meet(&server, &client(&ours.trusting()), "a.example").await.is_ok());
    let error = meet(&server, &client(&ours.trusting()), "b.example").await.unwrap_err();
    assert!(error.contains("not valid for name"), "{error}");
    let error = meet(&server, &client(&other.trusting()), "a.example").await.unwrap_err();
    assert!(error.contains("invalid peer certificate"), "{error}");
    let machine = ClientTls::new(&ClientSettings::default());
    if let Ok(machine) = machine {
        assert!(meet(&server, &machine, "a.example").await.is_err(), "no authority of this machine");
    }
    let unverified = client(&ClientSettings { unverified: true, ..ClientSettings::default() });
    assert!(meet(&server, &unverified, "b.example").await.is_ok());
    let (chain, key) = ours.issue_with(&["a.example"], |it| it.not_after = rcgen::date_time_ymd(2020, 1, 1));
    let expired = Identity::from_pem(chain.as_bytes(), key.as_bytes()).unwrap();
    let doubt = expired.doubt(std::time::SystemTime::now()).unwrap();
    assert_eq!(doubt, "the certificate expired on 2020-01-01");
    let error =
        meet(&showing(&ServerSettings::new(vec![expired])), &client(&ours.trusting()), "a.example").await;
    assert!(error.unwrap_err().contains("xpired"));
}

/// A certificate that is its own authority, as `openssl req -x509` makes it, and its key.
fn self_signed(name: &str, change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
    let mut params = CertificateParams::new([name.to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

#[tokio::test]
async fn a_certificate_that_is_its_own_authority_is_taken_if_it_is_trusted_itself() {
    let identity =
        |(chain, key): &(String, String)| Identity::from_pem(chain.as_bytes(), key.as_bytes()).unwrap();
    let trusting = |pem: &str| ClientSettings {
        authorities: Some(pem.as_bytes().to_vec()),
        ..ClientSettings::default()
    };
    let (own, other) = (self_signed("a.example", |_| {}), self_signed("a.example", |_| {}));
    let server = showing(&ServerSettings::new(vec![identity(&own)]));
    assert!(meet(&server, &client(&trusting(&own.0)), "a.example").await.is_ok());
    let both = format!("{}{}", other.0, own.0);
    assert!(meet(&server, &client(&trusting(&both)), "a.example").await.is_ok());
    let error = meet(&server, &client(&trusting(&own.0)), "b.example").await.unwrap_err();
    assert!(error.contains("not valid for name"), "{error}");
    assert!(meet(&server, &client(&trusting(&other.0)), "a.example").await.is_err(), "another one");
    let old = self_signed("a.example", |it| it.not_after = rcgen::date_time_ymd(2020, 1, 1));
    let server = showing(&ServerSettings::new(vec![identity(&old)]));
    let error = meet(&server, &client(&trusting(&old.0)), "a.example").await.unwrap_err();
    assert!(error.contains("xpired"), "{error}");

    // The same of clients.
    let ours = Authority::new();
    let server = |pem: &str| {
        showing(&ServerSettings {
            client_certificates: ClientCertificates::Required(pem.as_bytes().to_vec()),
            ..ServerSettings::new(vec![ours.issue(&["a.example"])])
        })
    };
    let showing = |pair| client(&ClientSettings { identity: Some(identity(pair)), ..ours.trusting() });
    let peer = meet(&server(&own.0), &showing(&own), "a.example").await.unwrap().0.peer.unwrap();
    assert_eq!(peer, ["a.example"]);
    assert!(meet(&server(&own.0), &showing(&other), "a.example").await.is_err());
    assert!(meet(&server(&old.0), &showing(&old), "a.example").await.is_err());
}

/// Of X.509 version 1, made by `openssl x509 -req` without `-extfile`; valid for a hundred years.
const VERSION_1: [&str; 2] = [
    "-----BEGIN CERTIFICATE-----\n\
     MIIBEzCBuwIUMFyWos/ChjXaC9jiacIZQXgh9cQwCgYIKoZIzj0EAwIwDDEKMAgG\n\
     A1UEAwwBYTAgFw0yNjExMjgwNjQwMTlaGA8yMTI2MTEwNDA2NDAxOVowDDEKMAgG\n\
     A1UEAwwBYTBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABKTQEwInV5shmfcb5vYx\n\
     4NT6VqeW39lGkSGMOessbE4vfvCDlxBrzsLA7QmxLSaQfy6k6VW05VOjaKsfY5Au\n\
     wiowCgYIKoZIzj0EAwIDRwAwRAIgbfX5+CcQDBD0lcJufluY4mV+c006wVvHpdWO\n\
     3vqNrNoCIEe60GafzU9tYZqRs6F19LUkJmxEirmNBBhr9aoL+Awl\n\
     -----END CERTIFICATE-----\n",
    "-----BEGIN PRIVATE KEY-----\n\
     MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgJ4xxY9Zl1rDWFan5\n\
     oiZAplV32Jsvwh7N3heCGT1ki3qhRANCAASk0BMCJ1ebIZn3G+b2MeDU+lanlt/Z\n\
     RpEhjDnrLGxOL37wg5cQa87CwO0JsS0mkH8upOlVtOVTo2irH2OQLsIq\n\
     -----END PRIVATE KEY-----\n",
];

#[tokio::test]
async fn certificates_of_x_509_version_1_are_taken_unverified_and_refused_in_words_else() {
    let [chain, key] = VERSION_1.map(str::as_bytes);
    let error = Identity::from_pem(chain, key).unwrap_err();
    assert!(error.contains("version 1, which has no names; expected version 3"), "{error}");
    let provider = provider();
    let key = provider.key_provider.load_private_key(PrivateKeyDer::from_pem_slice(key).unwrap()).unwrap();
    let pair = CertifiedKey::new(vec![CertificateDer::from_pem_slice(chain).unwrap()], key);
    let unverified = client(&ClientSettings { unverified: true, ..ClientSettings::default() });
    for versions in [&[&version::TLS12][..], &[&version::TLS13]] {
        let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(pair.clone())));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let (client, server) =
            tokio::join!(unverified.connect("a.example", stream), acceptor.accept(accepted));
        assert!(client.is_ok() && server.is_ok(), "{versions:?}: {client:?} {server:?}");
    }
}

#[test]
fn errors_say_what_is_wrong_with_a_certificate() {
    let authority = Authority::new();
    let (chain, key) = authority.issue_with(&["a.example", "*.b.example"], |_| {});
    let (_, other) = authority.issue_with(&["a.example"], |_| {});
    let said = |chain: &str, key: &str| Identity::from_pem(chain.as_bytes(), key.as_bytes()).unwrap_err();
    assert_eq!(said("", &key), "there is no certificate in PEM (BEGIN CERTIFICATE)");
    assert_eq!(said(&chain, &chain), "there is no key in PEM (BEGIN PRIVATE KEY)");
    assert_eq!(said(&chain, &other), "the key is that of another certificate");
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert_eq!(said(broken, &key), "the certificate cannot be used: it is not in the form of X.509");
    assert!(said("-----BEGIN CERTIFICATE-----\nAAAA", &key).starts_with("the certificate cannot be read: "));
    let broken = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    assert!(said(&chain, broken).starts_with("the key cannot be used: "), "{}", said(&chain, broken));
    let identity = Identity::from_pem(chain.as_bytes(), key.as_bytes()).unwrap();
    assert_eq!(identity.doubt(std::time::SystemTime::now()), None);
    let hosts = |hosts: &[&str]| {
        let hosts: Vec<String> = hosts.iter().map(|it| (*it).to_owned()).collect();
        identity.clone().for_hosts(&hosts).map(|it| it.hosts.to_vec())
    };
    assert_eq!(hosts(&["x.b.example", "*.b.example"]).unwrap(), ["x.b.example", "*.b.example"]);
    let error = "the certificate is not for c.example, but for a.example, *.b.example";
    assert_eq!(hosts(&["a.example", "c.example"]).unwrap_err(), error);
    for not_for in ["*.a.example", "b.example", "x.y.b.example"] {
        assert!(hosts(&[not_for]).is_err(), "{not_for}");
    }
    let none = ServerSettings::new(Vec::new());
    assert_eq!(none.check().unwrap_err(), "there is no certificate");
    let clients = ClientCertificates::Required(b"nothing".to_vec());
    let wrong =
        ServerSettings { client_certificates: clients, ..ServerSettings::new(vec![identity.clone()]) };
    assert_eq!(wrong.check().unwrap_err(), "the authorities of clients: there is no certificate in it");
    let server = showing(&ServerSettings::new(vec![identity]));
    assert!(server.set(&wrong).is_err() && server.is_set(), "what was set stays");
}

#[tokio::test]
async fn files_of_services_are_read_again() {
    let (ours, other) = (Authority::new(), Authority::new());
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let settings = |server_name: &str| BackendTls {
        verify: true,
        ca_file: Some(path("ca.pem")),
        server_name: server_name.parse().ok(),
        client_certificate: Some(ClientCertificate { certificate: path("own.pem"), key: path("own.key") }),
    };
    let backends = Backends::default();
    let backend = backends.get(&settings("a.example"));
    let said = |needle: &str| {
        let error = backend.tls().unwrap_err();
        assert!(error.contains(needle), "{error}");
    };
    said("ca.pem");
    let (chain, key) = ours.issue_with(&["client.example"], |_| {});
    std::fs::write(path("ca.pem"), "nothing").unwrap();
    std::fs::write(path("own.pem"), &chain).unwrap();
    std::fs::write(path("own.key"), key).unwrap();
    backends.reread();
    said("ca.pem: the authorities: there is no certificate in it");
    std::fs::write(path("ca.pem"), &other.pem).unwrap();
    backends.reread();
    let server = showing(&ServerSettings {
        client_certificates: ClientCertificates::Required(ours.pem.clone().into_bytes()),
        ..ServerSettings::new(vec![ours.issue(&["a.example"])])
    });
    assert!(meet(&server, &backend.tls().unwrap(), "a.example").await.is_err());
    std::fs::write(path("ca.pem"), format!("{}\n", ours.pem)).unwrap();
    backends.reread();
    assert!(meet(&server, &backend.tls().unwrap(), "a.example").await.is_ok());
    std::fs::remove_file(path("own.pem")).unwrap();
    backends.reread();
    assert!(backend.tls().is_ok(), "what was in use stays");
    assert!(
        Arc::ptr_eq(&backend, &backends.get(&settings("b.example"))),
        "the name is that of each connection"
    );
    drop(backend);
    backends.reread();
    assert!(backends.get(&settings("a.example")).tls().unwrap_err().contains("own.pem"), "it was forgotten");
}

/// The suite that a server chooses for a client which offers these, in this order.
async fn chosen(offered: &[CipherSuite]) -> CipherSuite {
    let authority = Authority::new();
    let server = showing(&ServerSettings::new(vec![authority.issue(&["a.example"])]));
    let mut provider = CryptoProvider::clone(&provider());
    let all = provider.cipher_suites.clone();
    let find = |suite: &CipherSuite| *all.iter().find(|it| it.suite() == *suite).unwrap();
    provider.cipher_suites = offered.iter().map(find).collect();
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(Version::Tls12.and_newer())
        .unwrap()
        .with_root_certificates(authority.roots())
        .with_no_client_auth();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    let name = "a.example".try_into().unwrap();
    let acceptor = server.acceptor().unwrap();
    let (client, server) = tokio::join!(connector.connect(name, stream), acceptor.accept(accepted));
    client.unwrap();
    server.unwrap().get_ref().1.negotiated_cipher_suite().unwrap().suite()
}

#[tokio::test]
async fn the_quickest_suite_is_chosen_and_chacha20_for_clients_without_instructions_for_aes() {
    use CipherSuite as Is;
    let (large, small, chacha) =
        (Is::TLS13_AES_256_GCM_SHA384, Is::TLS13_AES_128_GCM_SHA256, Is::TLS13_CHACHA20_POLY1305_SHA256);
    for (offered, expected) in [
        // As OpenSSL does, and browsers, and browsers of small devices.
        (&[large, chacha, small][..], small),
        (&[small, large, chacha], small),
        (&[chacha, small, large], chacha),
        (&[large, chacha], large),
        (&[large], large),
    ] {
        assert_eq!(chosen(offered).await, expected, "of {offered:?}");
    }
    let (large, small, chacha) = (
        Is::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        Is::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        Is::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    );
    assert_eq!(chosen(&[large, chacha, small]).await, small);
    assert_eq!(chosen(&[chacha, small, large]).await, chacha);
    // The newer version is more than the quicker suite.
    assert_eq!(chosen(&[small, Is::TLS13_AES_256_GCM_SHA384]).await, Is::TLS13_AES_256_GCM_SHA384);
}

#[test]
fn a_value_without_a_meaning_does_not_hide_what_a_client_prefers() {
    let chacha = CipherSuite::TLS13_CHACHA20_POLY1305_SHA256;
    let aes = CipherSuite::TLS13_AES_128_GCM_SHA256;
    let grease = CipherSuite::from(0x0a0a);
    assert!(server::prefers_chacha20(&[grease, chacha, aes]));
    assert!(!server::prefers_chacha20(&[grease, aes, chacha]));
    assert!(!server::prefers_chacha20(&[grease]) && !server::prefers_chacha20(&[]));
}
