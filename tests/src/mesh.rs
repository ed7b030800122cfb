//! Services as tests run them: applications on loopback addresses of their own, and the manifests that say so.

use std::{
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
    path::Path,
};

use crate::{app::App, ports::Network};

/// A Service with its replicas. Its pods have one core each.
#[derive(Debug)]
pub struct Service {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Replicas.
    pub pods: Vec<Pod>,
    network: Network,
    port: u16,
}

/// A replica.
#[derive(Debug)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Where its proxy listens.
    pub inbound: SocketAddr,
    /// The application.
    pub app: App,
    /// Takes requests.
    pub ready: bool,
}

impl Service {
    /// A Service whose `replicas` are running and ready.
    pub async fn start(namespace: &str, name: &str, replicas: usize) -> Self {
        Self::start_in(Network::new(), namespace, name, replicas).await
    }

    /// As [`Self::start`], at addresses of this network: [`Network::routable`] for an API server to take them.
    pub async fn start_in(network: Network, namespace: &str, name: &str, replicas: usize) -> Self {
        let port = network.port();
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        let mut service = Self { namespace, name, pods: Vec::new(), network, port };
        for _ in 0..replicas {
            service.add().await;
        }
        service
    }

    /// Starts one replica more.
    pub async fn add(&mut self) -> &Pod {
        let number = self.pods.len();
        let host = u8::try_from(number + 1).expect("a handful of replicas");
        let address = self.network.address(host);
        let app = App::start((address, 0).into()).await;
        let inbound = (address, self.port).into();
        self.pods.push(Pod { name: format!("{}-{number}", self.name), inbound, app, ready: true });
        &self.pods[number]
    }

    /// An address that clients of this service may come from.
    #[must_use]
    pub fn client(&self, number: u8) -> IpAddr {
        self.network.address(100 + number)
    }

    /// All replicas use this many cores from now on.
    pub fn burn(&self, cores: f64) {
        for pod in &self.pods {
            pod.app.burn(cores);
        }
    }

    /// `<namespace>/<service>/<pod>`: the node id of the pod's proxy.
    #[must_use]
    pub fn node(&self, pod: usize) -> String {
        format!("{}/{}/{}", self.namespace, self.name, self.pods[pod].name)
    }

    /// Name of the pod's xDS resources.
    #[must_use]
    pub fn resource(&self, pod: usize) -> String {
        format!("in/{}/{}", self.node(pod), self.port)
    }

    /// Where every proxy listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The annotations of a pod: where its application is, behind its proxy and for whoever reads its metrics.
    #[must_use]
    pub fn annotations(&self, pod: &Pod) -> [(String, String); 2] {
        let address = pod.app.address;
        [
            (format!("inbound.weir.dev/{}", self.port), address.to_string()),
            ("prometheus.io/port".to_owned(), address.port().to_string()),
        ]
    }

    /// Service, EndpointSlice and Pods as YAML.
    #[must_use]
    pub fn manifests(&self) -> String {
        let Self { namespace, name, pods, port, .. } = self;
        let mut text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
             spec: {{ports: [{{name: http, port: 80, targetPort: {port}}}]}}\n---\n\
             apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: {name}-1, namespace: {namespace}, labels: {{kubernetes.io/service-name: {name}}}}}\n\
             addressType: IPv4\nports: [{{name: http, port: {port}}}]\nendpoints:\n"
        );
        for Pod { name, inbound, ready, .. } in pods {
            writeln!(
                text,
                "- {{addresses: [{}], conditions: {{ready: {ready}}}, targetRef: {{kind: Pod, name: {name}}}}}",
                inbound.ip()
            )
            .expect("a String can be written");
        }
        for pod in pods {
            let (name, [(inbound, address), (scrape, metrics)]) = (&pod.name, self.annotations(pod));
            write!(
                text,
                "---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  namespace: {namespace}\n  annotations: \
                 {{{inbound}: \"{address}\", {scrape}: \"{metrics}\"}}\n\
                 spec: {{containers: [{{name: app, image: app, resources: {{limits: {{cpu: \"1\"}}}}}}]}}\n"
            )
            .expect("a String can be written");
        }
        text
    }

    /// As [`Self::manifests`], of pods whose applications call others through their proxies.
    #[must_use]
    pub fn calling(&self) -> String {
        let mut text = self.manifests();
        for (number, pod) in self.pods.iter().enumerate() {
            let inbound = format!("/{}: \"{}\"", self.port, pod.app.address);
            let listen = format!("{inbound}, outbound.weir.dev/listen: \"{}\"", self.outbound(number));
            text = text.replace(&inbound, &listen);
        }
        text
    }

    /// Where the proxy of a pod takes what its application sends to other services, if it does.
    #[must_use]
    pub fn outbound(&self, pod: usize) -> SocketAddr {
        (self.pods[pod].inbound.ip(), 15001).into()
    }

    /// Puts the manifests into `folder`, in place of those before.
    pub fn write(&self, folder: &Path) {
        put(folder, &format!("{}.{}.yaml", self.namespace, self.name), &self.manifests());
    }
}

/// Service and EndpointSlice of a Service whose only pod is an application that has no proxy. `port`: the name of its port 80, which
/// says what is spoken there.
#[must_use]
pub fn without_proxy(namespace: &str, name: &str, port: &str, application: SocketAddr) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {{ports: [{{name: {port}, port: 80}}]}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: {name}-1, namespace: {namespace}, labels: {{kubernetes.io/service-name: {name}}}}}\n\
         addressType: IPv4\nports: [{{name: {port}, port: {}}}]\n\
         endpoints: [{{addresses: [{}], targetRef: {{kind: Pod, name: {name}-0}}}}]\n",
        application.port(),
        application.ip()
    )
}

/// A `LazyConfig` with these fields in its `spec`.
#[must_use]
pub fn lazy(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "apiVersion: weir.dev/v1alpha1\nkind: LazyConfig\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{{spec}}}\n"
    )
}

/// Puts a file into `folder` at once, as an editor that renames does.
///
/// # Panics
///
/// When the folder cannot be written.
pub fn put(folder: &Path, name: &str, text: &str) {
    let draft = folder.join(format!(".{name}.draft"));
    std::fs::write(&draft, text).expect("the folder can be written");
    std::fs::rename(draft, folder.join(name)).expect("the folder can be written");
}

/// A `SmartLimiter` for the Service of the same name, with these lines as its rules (and what may follow them in `spec`).
#[must_use]
pub fn limiter(namespace: &str, name: &str, rules: &str) -> String {
    let mut text = format!(
        "apiVersion: weir.dev/v1alpha1\nkind: SmartLimiter\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec:\n  targetRefs: [{{kind: Service, name: {name}}}]\n  rules:\n"
    );
    for line in rules.trim_matches('\n').lines() {
        text.push_str("  ");
        text.push_str(line);
        text.push('\n');
    }
    text
}
