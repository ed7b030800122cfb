//! Free TCP ports for servers that cannot be told to pick one themselves, and networks of a test's own.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    sync::{
        LazyLock,
        atomic::{AtomicU8, Ordering},
    },
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

/// A part of a network of this machine that no other test of this process uses.
#[derive(Clone, Copy, Debug)]
pub struct Network([u8; 3]);

impl Network {
    /// The next one of loopback; hardly one that another process uses.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "each is another one")]
    pub fn new() -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(0);
        let process = u8::try_from(2 + std::process::id() % 250).expect("at most 251");
        Self([127, process, NEXT.fetch_add(1, Ordering::Relaxed)])
    }

    /// The next one of 10.77.0.0/16, which is here where `scripts/in-namespace` runs the tests: for addresses that an API server
    /// takes. Servers of the control plane have 10.77.0.1.
    #[must_use]
    pub fn routable() -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(0);
        Self([10, 77, 1 + NEXT.fetch_add(1, Ordering::Relaxed) % 255])
    }

    /// An address in it.
    #[must_use]
    pub fn address(self, host: u8) -> IpAddr {
        let [first, second, third] = self.0;
        Ipv4Addr::new(first, second, third, host).into()
    }

    /// A port that is free on every address of it, as far as this process goes.
    #[must_use]
    pub fn port(self) -> u16 {
        free().port()
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
