//! Services, as pods see them: a listener at every ClusterIP that hands connections to ready endpoints, and their names.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    io::Write as _,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures::{StreamExt, stream};
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::{
    Api, ResourceExt,
    runtime::{WatchStreamExt, reflector, watcher},
};
use parking_lot::Mutex;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::Host;

/// Address, namespace and name of a Service.
type Name = (IpAddr, String, String);
type Backends = Arc<Mutex<Vec<SocketAddr>>>;

pub(super) async fn run(host: Arc<Host>) {
    let (services, writer) = reflector::store();
    let service_changes = watcher(Api::<Service>::all(host.client.clone()), watcher::Config::default());
    let service_changes = service_changes.default_backoff().reflect(writer).touched_objects().map(drop);
    let (slices, writer) = reflector::store();
    let slice_changes = watcher(Api::<EndpointSlice>::all(host.client.clone()), watcher::Config::default());
    let slice_changes = slice_changes.default_backoff().reflect(writer).touched_objects().map(drop);
    let mut changes = pin!(stream::select(service_changes, slice_changes));
    let mut doors = BTreeMap::<SocketAddr, (Backends, JoinSet<()>)>::new();
    while changes.next().await.is_some() {
        let (services, slices) = (services.state(), slices.state());
        host.names.update(names(&services, &slices));
        let wanted = wanted(&services, &slices);
        doors.retain(|address, _| wanted.contains_key(address));
        for (address, backends) in wanted {
            if let Some((current, _)) = doors.get(&address) {
                *current.lock() = backends;
            } else if let Ok(listener) = TcpListener::bind(address).await {
                // One that cannot be bound is tried again after the next change.
                let backends = Arc::new(Mutex::new(backends));
                let mut task = JoinSet::new();
                task.spawn(serve(listener, Arc::clone(&backends)));
                doors.insert(address, (backends, task));
            }
        }
    }
}

/// Hands each connection to the next backend.
async fn serve(listener: TcpListener, backends: Backends) {
    let next = AtomicUsize::new(0);
    let mut connections = JoinSet::new();
    while let Ok((mut client, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        let backend = {
            let backends = backends.lock();
            let number = next.fetch_add(1, Ordering::Relaxed);
            backends.get(number % backends.len().max(1)).copied()
        };
        // Without one the connection is closed, as kube-proxy refuses it.
        let Some(backend) = backend else { continue };
        connections.spawn(async move {
            if let Ok(mut server) = TcpStream::connect(backend).await {
                let _ = (client.set_nodelay(true), server.set_nodelay(true));
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            }
        });
    }
}

fn service_of(slice: &EndpointSlice) -> Option<(String, String)> {
    Some((slice.namespace()?, slice.labels().get("kubernetes.io/service-name")?.clone()))
}

/// The ready addresses of a slice.
fn ready(slice: &EndpointSlice) -> impl Iterator<Item = IpAddr> {
    let ready = slice
        .endpoints
        .iter()
        .filter(|endpoint| endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true));
    ready.filter_map(|endpoint| endpoint.addresses.first()?.parse().ok())
}

/// Where to listen, and whom to hand connections to.
fn wanted(services: &[Arc<Service>], slices: &[Arc<EndpointSlice>]) -> BTreeMap<SocketAddr, Vec<SocketAddr>> {
    let mut wanted = BTreeMap::new();
    for service in services {
        let Some(spec) = &service.spec else { continue };
        // Headless Services and those that are only names have none.
        let Some(Ok(cluster_ip)) = spec.cluster_ip.as_deref().map(str::parse::<IpAddr>) else { continue };
        let Some(key) = service.namespace().map(|namespace| (namespace, service.name_any())) else { continue };
        for port in spec.ports.iter().flatten().filter(|port| port.protocol.as_deref() != Some("UDP")) {
            let mut backends = Vec::new();
            for slice in slices.iter().filter(|slice| service_of(slice).as_ref() == Some(&key)) {
                let target = slice.ports.iter().flatten().find(|target| {
                    target.name.as_deref().unwrap_or_default() == port.name.as_deref().unwrap_or_default()
                });
                let Some(target) = target.and_then(|target| u16::try_from(target.port?).ok()) else { continue };
                backends.extend(ready(slice).map(|address| SocketAddr::new(address, target)));
            }
            backends.sort_unstable();
            if let Ok(port) = u16::try_from(port.port) {
                wanted.insert(SocketAddr::new(cluster_ip, port), backends);
            }
        }
    }
    wanted
}

/// The names of all Services; a headless one has the addresses of its endpoints.
fn names(services: &[Arc<Service>], slices: &[Arc<EndpointSlice>]) -> BTreeSet<Name> {
    let mut names = BTreeSet::new();
    for service in services {
        let (Some(namespace), name) = (service.namespace(), service.name_any()) else { continue };
        let cluster_ip = service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref());
        if let Some(Ok(address)) = cluster_ip.map(str::parse::<IpAddr>) {
            names.insert((address, namespace, name));
        } else if cluster_ip == Some("None") {
            let key = (namespace, name);
            for slice in slices.iter().filter(|slice| service_of(slice).as_ref() == Some(&key)) {
                names.extend(ready(slice).map(|address| (address, key.0.clone(), key.1.clone())));
            }
        }
    }
    names
}

/// One `/etc/hosts` for the pods of each namespace, kept current while it is mounted.
pub(super) struct Names {
    folder: PathBuf,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    names: BTreeSet<Name>,
    /// The namespaces that have a file.
    files: BTreeSet<String>,
}

impl Names {
    pub(super) fn new(folder: PathBuf) -> Self {
        // What is not in the file does not exist: nobody answers there, which is found out at once.
        std::fs::write(folder.join("resolv.conf"), "nameserver 127.0.0.1\noptions attempts:1 timeout:1\n")
            .expect("a fresh folder can be written");
        Self { folder, known: Mutex::default() }
    }

    /// The file of a namespace.
    pub(super) fn file(&self, namespace: &str) -> PathBuf {
        let mut known = self.known.lock();
        if known.files.insert(namespace.to_owned()) {
            self.write(&known.names, namespace);
        }
        self.folder.join(namespace)
    }

    pub(super) fn resolver(&self) -> PathBuf {
        self.folder.join("resolv.conf")
    }

    fn update(&self, names: BTreeSet<Name>) {
        let mut known = self.known.lock();
        if known.names != names {
            for namespace in &known.files {
                self.write(&names, namespace);
            }
            known.names = names;
        }
    }

    /// In the same file, since that is what is mounted, and never shorter than it should be in between.
    fn write(&self, names: &BTreeSet<Name>, of: &str) {
        let mut text = "127.0.0.1 localhost\n".to_owned();
        for (address, namespace, name) in names {
            let short = if namespace == of { name } else { "" };
            writeln!(
                text,
                "{address} {name}.{namespace}.svc.cluster.local {name}.{namespace}.svc {name}.{namespace} {short}"
            )
            .expect("a String can be written");
        }
        let file = std::fs::File::options().create(true).truncate(false).write(true).open(self.folder.join(of));
        let mut file = file.expect("the node's folder can be written");
        file.write_all(text.as_bytes()).expect("the node's folder can be written");
        file.set_len(text.len() as u64).expect("the node's folder can be written");
    }
}
