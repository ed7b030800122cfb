//! The xDS server of Weir without the rest, so that a test says what is decided.

use std::{net::SocketAddr, time::Duration};

use operator::{
    intent::{Bounds, Inbound, PodIntent, Priority, Protocol, Route, ServiceIntent, ServiceKey},
    xds::{NodeKey, proxies::Proxies, resources, server, table::Table},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{eventually, mesh::Service};

const DEADLINE: Duration = Duration::from_secs(30);

/// A running server. Stopped when dropped.
#[derive(Debug)]
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    /// What it serves.
    pub table: Table,
    /// What proxies said.
    pub proxies: Proxies,
    _ends: DropGuard,
}

impl Server {
    /// Starts it, with nothing to serve.
    ///
    /// # Panics
    ///
    /// When it cannot listen.
    #[must_use]
    pub fn start() -> Self {
        let listener = operator::identity::bind(([127, 0, 0, 1], 0).into()).expect("a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let (table, proxies) = (Table::new(), Proxies::new());
        let shutdown = CancellationToken::new();
        // Nobody asks for what is not there.
        let (asks_tx, _) = tokio::sync::mpsc::channel(1);
        tokio::spawn(server::serve(
            server::Served { table: table.clone(), proxies: proxies.clone(), asks_tx },
            Default::default(),
            listener.into(),
            operator::identity::Door::open(),
            server::Leaving::at_once(shutdown.clone()),
        ));
        Self { address, table, proxies, _ends: shutdown.drop_guard() }
    }

    /// Makes this the bound at the service's only pod, and nothing else.
    pub fn bound(&self, service: &Service, bound: Option<u32>) {
        self.bound_at(service, service.pods[0].app.address, Protocol::Http, bound);
    }

    /// As [`Self::bound`], with another application behind the pod's proxy.
    pub fn bound_at(&self, service: &Service, application: SocketAddr, protocol: Protocol, bound: Option<u32>) {
        let pod = &service.pods[0];
        let inbound = Inbound { listener: pod.inbound, application, protocol };
        let pod_intent = PodIntent {
            inbound: vec![inbound],
            bounds: Bounds { default: bound, high: bound },
            ..PodIntent::default()
        };
        let all = Route {
            name: "all".into(),
            matches: Vec::new(),
            limits: Vec::new(),
            priority: Priority::Default,
            classes: Vec::new(),
        };
        let pods = [(pod.name.clone(), pod_intent)].into();
        let intent = ServiceIntent { limits: Vec::new(), routes: vec![all], pods };
        let key = ServiceKey { namespace: service.namespace.clone(), name: service.name.clone() };
        self.table.replace(&key, resources::build(&key, &intent));
    }

    /// Waits until the pod's proxy has acknowledged everything.
    ///
    /// # Panics
    ///
    /// When it does not in time.
    pub async fn programmed(&self, service: &Service) {
        let node: NodeKey = service.node(0).parse().expect("a node id");
        eventually(DEADLINE, "the proxy has taken everything", async || {
            if self.proxies.programmed(&node, &self.table.versions(&node)) { Ok(()) } else { Err("not yet") }
        })
        .await;
    }
}
