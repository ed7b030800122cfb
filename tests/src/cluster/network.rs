//! Addresses inside the namespace that `scripts/in-namespace` makes.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    sync::atomic::{AtomicU8, Ordering},
};

use crate::ports;

/// Where the servers of a cluster are.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) etcd: SocketAddr,
    pub(super) etcd_peer: SocketAddr,
    pub(super) api_server: SocketAddr,
    pub(super) service_range: String,
    /// The ClusterIP of the Service `kubernetes`: the first of the range.
    pub(super) service_ip: IpAddr,
}

/// Addresses that no other cluster of this process has.
pub(super) fn place() -> Place {
    static NEXT: AtomicU8 = AtomicU8::new(0);
    // 10.96.0.0/11 ends with 10.127.
    let second = 96 + NEXT.fetch_add(1, Ordering::Relaxed) % 32;
    Place {
        etcd: ports::free(),
        etcd_peer: ports::free(),
        api_server: (Ipv4Addr::new(10, 77, 0, 1), ports::free().port()).into(),
        service_range: format!("10.{second}.0.0/16"),
        service_ip: Ipv4Addr::new(10, second, 0, 1).into(),
    }
}

/// Whether this process runs in such a namespace.
///
/// # Panics
///
/// When it does not.
pub(super) fn check() {
    assert!(
        TcpListener::bind((Ipv4Addr::new(10, 77, 0, 1), 0)).is_ok(),
        "a control plane needs a network namespace of its own: run `make test`, or `scripts/in-namespace cargo test ...`"
    );
}
