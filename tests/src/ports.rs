//! Free TCP ports for servers that cannot be told to pick one themselves.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::LazyLock,
};

/// Ports this process has handed out. The kernel may offer a port again as soon as it is closed; a test never should.
static TAKEN: LazyLock<parking_lot::Mutex<BTreeSet<u16>>> = LazyLock::new(Default::default);

/// A loopback address whose port nobody listened on a moment ago and that this process gets only once.
///
/// # Panics
///
/// When loopback has no free port.
#[must_use]
pub fn free() -> SocketAddr {
    let mut taken = TAKEN.lock();
    // Listeners on unwanted ports stay open until the end, so that the kernel must offer another one.
    let mut refused = Vec::new();
    loop {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        if taken.insert(address.port()) {
            return address;
        }
        refused.push(listener);
    }
}

#[cfg(test)]
mod tests {
    use super::free;

    #[test]
    fn threads_never_share_a_port() {
        let threads: Vec<_> =
            (0..8).map(|_| std::thread::spawn(|| (0..50).map(|_| free()).collect::<Vec<_>>())).collect();
        let mut ports: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 400);
    }
}
