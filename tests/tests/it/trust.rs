//! Without Kubernetes: Weir's certificate and those of its clients come from files, and a client certificate names its pod.

use std::{net::SocketAddr, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use operator::xds::{
    ResourceType,
    bootstrap::Upstream,
    client::{DeltaClient, Error},
};
use testkit::{
    authority::{Authority, Signed},
    dial, eventually,
    http::{self, Connection},
    mesh::{Service, limiter, put},
    mount::Mount,
    ports::{self, Network},
    proxy::Proxy,
    temp_dir,
    weir::{self, Weir},
};
use tonic::{Code, Status, metadata::MetadataMap};

const SOON: Duration = Duration::from_secs(30);
const NAME: &str = "weir.example";
const CART: &str = "spiffe://example.org/ns/ns-a/pod/checkout-0";

fn write(folder: &Path, own: &Signed) {
    put(folder, "tls.crt", &own.certificate);
    put(folder, "tls.key", &own.key);
}

async fn stream(weir: &Weir, authorities: &str, own: Option<&Signed>, node: &str) -> Result<usize, Status> {
    let refused = |error: Error| match error {
        Error::Status(status) => *status,
        other => Status::unknown(other.to_string()),
    };
    let channel = dial::dial(weir.xds, NAME, authorities, own).await;
    let channel = channel.map_err(|error| Status::unknown(format!("no connection: {error:?}")))?;
    let mut client = DeltaClient::open_with(channel, node, MetadataMap::new()).await.map_err(refused)?;
    let _ = client.subscribe(ResourceType::Cluster, &[]).await;
    Ok(client.next().await.map_err(refused)?.resources.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_names_its_pod() {
    let (config, certificates, clients) = (temp_dir(), temp_dir(), temp_dir());
    let service = Service::start("ns-a", "checkout", 2).await;
    service.write(config.path());
    let rule = "- name: calm\n  limit: 5 requests per hour per pod";
    put(config.path(), "policy.yaml", &limiter("ns-a", "checkout", rule));
    let (servers, authority, stranger) =
        (Authority::new("servers"), Authority::new("clients"), Authority::new("stranger"));
    write(certificates.path(), &servers.server(NAME, -1, 30));
    let file = clients.path().join("ca.crt");
    put(clients.path(), "ca.crt", authority.pem());
    let folder = certificates.path().to_str().unwrap();
    let weir =
        Weir::start(config.path(), &["--certificate-dir", folder, "--xds-client-ca", file.to_str().unwrap()]).await;

    let node = service.node(0);
    let (own, common) = (authority.client("x", Some(CART)), authority.client("ns-a/checkout-0", None));
    for good in [&own, &common] {
        assert!(stream(&weir, servers.pem(), Some(good), &node).await.unwrap() > 0);
    }
    for (bad, code) in [
        (None, Code::Unauthenticated),
        (Some(authority.client("ns-a/checkout-1", None)), Code::PermissionDenied),
        (Some(authority.client("checkout-0", None)), Code::Unauthenticated),
    ] {
        let status = stream(&weir, servers.pem(), bad.as_ref(), &node).await.unwrap_err();
        assert_eq!(status.code(), code, "{bad:?}: {status:?}");
    }
    let unknown = stranger.client("ns-a/checkout-0", None);
    assert!(stream(&weir, servers.pem(), Some(&unknown), &node).await.is_err(), "the handshake ends it");
    assert!(stream(&weir, stranger.pem(), Some(&own), &node).await.is_err(), "Weir is not trusted by everybody");

    let mount = Mount::new(servers.pem(), "");
    mount.put("tls.crt", &own.certificate);
    mount.put("tls.key", &own.key);
    let trust = mount.trust_by_certificate(NAME);
    let node_parts = ("ns-a", "checkout", service.pods[0].name.as_str());
    let proxy = Proxy::start_trusting(weir.xds, node_parts, Some(trust), |_| {}).await;
    let inbound = service.pods[0].inbound;
    eventually(SOON, "it limits", async || {
        let (_, refused) = Connection::open(inbound, None).await.unwrap().burst("/", 10).await.unwrap();
        if refused > 0 { Ok(()) } else { Err(weir.log()) }
    })
    .await;

    // Both sides are renewed, and another authority signs clients from now on: who is there stays, who comes is judged anew.
    write(certificates.path(), &stranger.server(NAME, -1, 60));
    put(clients.path(), "ca.crt", stranger.pem());
    let new = stranger.client("x", Some(CART));
    eventually(SOON, "the new ones are accepted", async || {
        stream(&weir, stranger.pem(), Some(&new), &node).await.map_err(|status| status.to_string())
    })
    .await;
    assert!(stream(&weir, stranger.pem(), Some(&own), &node).await.is_err(), "the one before is not");
    assert_eq!(proxy.stat("control_plane.connected_state").await, 1);
    // A file that is no longer of use changes nothing.
    put(clients.path(), "ca.crt", "garbage");
    eventually(SOON, "it is said", async || {
        let log = weir.log();
        if log.contains("stay as they were") { Ok(()) } else { Err(log) }
    })
    .await;
    assert!(stream(&weir, stranger.pem(), Some(&new), &node).await.is_ok());
}

/// Open files of a process.
fn open_files(weir: &Weir) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", weir.id().unwrap())).unwrap().count()
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_without_a_stream_that_is_let_in_are_closed() {
    const STRANGERS: usize = 200;
    let (config, certificates) = (temp_dir(), temp_dir());
    let service = Service::start("ns-a", "checkout", 1).await;
    service.write(config.path());
    let (servers, authority) = (Authority::new("servers"), Authority::new("clients"));
    write(certificates.path(), &servers.server(NAME, -1, 30));
    put(certificates.path(), "clients.crt", authority.pem());
    let [folder, clients] = [certificates.path().to_owned(), certificates.path().join("clients.crt")];
    let arguments = ["--certificate-dir", folder.to_str().unwrap(), "--xds-client-ca", clients.to_str().unwrap()];
    let weir = Weir::start(config.path(), &arguments).await;
    let own = authority.client("x", Some(CART));
    let channel = dial::dial(weir.xds, NAME, servers.pem(), Some(&own)).await.unwrap();
    let mut good = DeltaClient::open_with(channel, &service.node(0), MetadataMap::new()).await.unwrap();
    good.subscribe(ResourceType::Cluster, &[]).await.unwrap();
    good.next().await.unwrap();
    let before = open_files(&weir);
    let mut strangers = Vec::new();
    for number in 0..STRANGERS {
        let channel = dial::dial(weir.xds, NAME, servers.pem(), None).await.unwrap();
        if number % 2 == 0 {
            // It asks, and is refused.
            let client = DeltaClient::open_with(channel.clone(), &service.node(0), MetadataMap::new()).await;
            drop(client);
        }
        strangers.push(channel);
    }
    assert!(open_files(&weir) >= before + STRANGERS, "they are there");
    eventually(Duration::from_secs(60), "they are closed", async || {
        let now = open_files(&weir);
        if now < before + STRANGERS / 10 { Ok(()) } else { Err(now - before) }
    })
    .await;
    good.subscribe(ResourceType::Listener, &[]).await.unwrap();
    assert!(!good.next().await.unwrap().resources.is_empty(), "who was let in stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_comes_in_by_a_unix_socket() {
    let (config, run) = (temp_dir(), temp_dir());
    let socket = run.path().join("xds.sock");
    let service = Service::start("ns-a", "checkout", 1).await;
    service.write(config.path());
    let rule = |limit: u32| format!("- name: calm\n  limit: {limit} requests per hour per pod");
    put(config.path(), "policy.yaml", &limiter("ns-a", "checkout", &rule(5)));
    let mut weir = Weir::spawn_on_socket(config.path(), &socket, &[]);
    weir.ready().await;
    eventually(SOON, "it listens", async || socket.exists().then_some(()).ok_or("no socket")).await;
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o660);

    // What `weir bootstrap` writes is what the proxy is given.
    let upstream = format!("unix:{}", socket.display());
    let written =
        weir::command(["bootstrap", "--service", "checkout", "--pod", "checkout-0", "--xds-address", &upstream]);
    let written = String::from_utf8({ written }.output().unwrap().stdout).unwrap();
    assert!(written.contains("pipe:") && written.contains(socket.to_str().unwrap()), "{written}");
    let node = ("ns-a", "checkout", service.pods[0].name.as_str());
    let proxy = Proxy::start_trusting(Upstream::Unix(socket.clone()), node, None, |_| {}).await;
    let key = "smartlimiters.weir.dev/ns-a/checkout";
    weir.until(SOON, "it is programmed", |status| status.programmed(key, 1).map(drop)).await;
    let (admitted, refused) =
        Connection::open(service.pods[0].inbound, None).await.unwrap().burst("/", 20).await.unwrap();
    assert!(admitted >= 1 && refused >= 10, "{admitted} admitted, {refused} refused");

    // Nobody takes it away from who listens.
    let (status, log) = Weir::spawn_on_socket(config.path(), &socket, &[]).ended().await.unwrap();
    assert!(!status.success() && log.contains("another process listens there"), "{log}");
    // One that was killed leaves its socket behind, which is none to the next.
    weir.kill().await.unwrap();
    assert!(socket.exists());
    put(config.path(), "policy.yaml", &limiter("ns-a", "checkout", &rule(7)));
    let mut weir = Weir::spawn_on_socket(config.path(), &socket, &[]);
    weir.ready().await;
    weir.until(SOON, "the proxy is back", |status| status.programmed(key, 1).map(drop)).await;
    assert_eq!(proxy.stat("control_plane.connected_state").await, 1);
    weir.stop().await.unwrap();
    assert!(!socket.exists(), "one that ends takes it along");
    put(run.path(), "xds.sock", "precious");
    let (status, log) = Weir::spawn_on_socket(config.path(), &socket, &[]).ended().await.unwrap();
    assert!(!status.success() && log.contains("something else than a socket stands there"), "{log}");
    assert_eq!(std::fs::read_to_string(&socket).unwrap(), "precious");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_page_of_a_folder_tells_others_health_alone() {
    let config = temp_dir();
    let network = Network::routable();
    let admin = SocketAddr::new(network.address(1), network.port());
    let mut weir = Weir::spawn(config.path(), ports::free(), admin, &[]);
    weir.ready().await;
    for (path, expected) in [("/healthz", 200), ("/readyz", 200), ("/metrics", 403), ("/status", 403), ("/pause", 403)]
    {
        let answer = http::get(admin, path).await.unwrap();
        let said = String::from_utf8_lossy(answer.body()).into_owned();
        assert!(
            answer.status() == expected && (expected == 200 || said.contains("this machine alone")),
            "{path}: {said}"
        );
    }
    weir.stop().await.unwrap();
    // At every address the machine itself still gets all.
    let anywhere = SocketAddr::new([0, 0, 0, 0].into(), network.port());
    let mut weir = Weir::spawn(config.path(), ports::free(), anywhere, &[]);
    weir.ready().await;
    let here = SocketAddr::new([127, 0, 0, 1].into(), anywhere.port());
    let admin = SocketAddr::new(admin.ip(), anywhere.port());
    assert_eq!(http::get(here, "/status").await.unwrap().status(), 200);
    assert_eq!(http::get(admin, "/status").await.unwrap().status(), 403);
    weir.stop().await.unwrap();
}

#[tokio::test]
async fn nothing_but_loopback_is_served_in_plain_text() {
    let folder = temp_dir();
    let certificates = temp_dir();
    write(certificates.path(), &Authority::new("servers").server(NAME, -1, 30));
    let [config, dir] = [folder.path(), certificates.path()].map(|path| path.to_str().unwrap());
    let run = |arguments: &[&str]| {
        let output = weir::command([&["run", "--config", config][..], arguments].concat()).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let anywhere = ["--xds-address", "0.0.0.0:0"];
    let anywhere = |more: &[&'static str]| [&anywhere[..], more].concat();
    for (arguments, words) in [
        (anywhere(&[]), "is not loopback: whoever reaches it could pretend to be any proxy; give --certificate-dir"),
        (anywhere(&["--xds-plaintext"]), "--xds-plaintext is for loopback or a Unix socket alone"),
        (vec!["--xds-client-ca", "/nowhere"], "--xds-client-ca needs a certificate of Weir's own"),
        (vec!["--xds-plaintext", "--xds-client-ca", "/nowhere"], "exclude each other"),
        (vec!["--certificate-secret", "a"], "is for --kubernetes: without an API server give --certificate-dir"),
        (vec!["--ca-config-map", "a/b"], "--ca-config-map is for --kubernetes"),
        (vec!["--ca-config-map", "b"], "expected NAMESPACE/NAME of a ConfigMap"),
    ] {
        let (code, said) = run(&arguments);
        assert!(code == Some(2) && said.contains(words), "{arguments:?}: {said}");
    }
    let (code, said) = run(&["--xds-address", "0.0.0.0:0", "--certificate-dir", dir]);
    assert!(code == Some(2) && said.contains("needs --xds-client-ca FILE beside the certificate"), "{said}");
    for (file, words) in [("/nowhere", "/nowhere cannot be read"), (config, "cannot be read")] {
        let admin = ports::free().to_string();
        let more =
            ["--certificate-dir", dir, "--xds-client-ca", file, "--xds-address=127.0.0.1:0", "--admin-address", &admin];
        let (code, said) = run(&more);
        assert!(code == Some(2) && said.contains("--xds-client-ca") && said.contains(words), "{said}");
    }
}
