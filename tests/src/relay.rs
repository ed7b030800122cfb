//! A TCP relay in front of a server, whose connections a test can cut.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

/// Relays until it is dropped. What it relays then ends, too.
#[derive(Debug)]
pub struct Relay {
    /// Where it listens.
    pub address: SocketAddr,
    cuts: watch::Sender<u64>,
    task: JoinHandle<()>,
}

impl Relay {
    /// Starts one to this address, on a free port.
    ///
    /// # Panics
    ///
    /// When no port is free.
    pub async fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port is free");
        let address = listener.local_addr().expect("a bound listener has an address");
        let cuts = watch::Sender::new(0);
        let cut = cuts.subscribe();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(relay(stream, to, cut.clone()));
            }
        });
        Self { address, cuts, task }
    }

    /// Closes every connection. New ones are taken.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn relay(mut from: TcpStream, to: SocketAddr, mut cut: watch::Receiver<u64>) {
    cut.mark_unchanged();
    let relayed = async {
        let mut to = TcpStream::connect(to).await?;
        to.set_nodelay(true)?;
        from.set_nodelay(true)?;
        tokio::io::copy_bidirectional(&mut from, &mut to).await
    };
    // Either end may close at any time, or cut() does.
    tokio::select! {
        _ = relayed => {}
        _ = cut.changed() => {}
    }
}
