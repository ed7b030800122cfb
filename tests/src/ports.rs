//! Free TCP ports for servers that cannot be told to pick one themselves, and loopback networks of a test's own.

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

/// A part of the loopback network that no other test of this process uses, and hardly one of another process.
#[derive(Clone, Copy, Debug)]
pub struct Network([u8; 2]);

impl Network {
    /// The next one.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "each is another one")]
    pub fn new() -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(0);
        let process = u8::try_from(2 + std::process::id() % 250).expect("at most 251");
        Self([process, NEXT.fetch_add(1, Ordering::Relaxed)])
    }

    /// An address in it.
    #[must_use]
    pub fn address(self, host: u8) -> IpAddr {
        Ipv4Addr::new(127, self.0[0], self.0[1], host).into()
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
