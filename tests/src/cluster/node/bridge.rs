//! The network of a node: a bridge, and for every pod a network namespace with a wire to it.

use std::{
    net::{IpAddr, Ipv4Addr},
    process::{Command as Blocking, Stdio},
    sync::atomic::{AtomicU8, AtomicU16, Ordering},
};

use anyhow::{Context, ensure};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

/// A bridge. Taken away when dropped.
#[derive(Debug)]
pub(super) struct Bridge {
    name: String,
    second: u8,
    next: AtomicU16,
}

/// The network namespace of a pod. It and its wire are gone when it is dropped and no container is left in it.
#[derive(Debug)]
pub(super) struct Sandbox {
    /// A process that sleeps in it.
    pub(super) process: u32,
    /// The pod's address.
    pub(super) address: IpAddr,
    _child: Child,
}

impl Bridge {
    pub(super) async fn new() -> anyhow::Result<Self> {
        static NEXT: AtomicU8 = AtomicU8::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed) % 64;
        // Each has a sixteenth of 10.128.0.0/10 of its own; its first address is the way out.
        let bridge = Self { name: format!("weir{number}"), second: 128 + number, next: AtomicU16::new(2) };
        // A bridge without a MAC address of its own takes the lowest among its wires', random ones that come and go; pods that know the
        // one before send into nothing until they ask again, half a minute later.
        shell(
            "ip link add \"$1\" address 02:00:00:00:00:01 type bridge && ip address add \"$2/16\" dev \"$1\" && ip link set \"$1\" up",
            &[&bridge.name, &bridge.gateway().to_string()],
        )
        .await?;
        Ok(bridge)
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The node's own address, by which pods reach everything outside of them.
    pub(super) fn gateway(&self) -> IpAddr {
        Ipv4Addr::new(10, self.second, 0, 1).into()
    }

    /// A fresh network namespace with a wire to the bridge.
    pub(super) async fn sandbox(&self) -> anyhow::Result<Sandbox> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let [third, fourth] = number.to_be_bytes();
        let address = IpAddr::from(Ipv4Addr::new(10, self.second, third, fourth));
        let mut child = Command::new("unshare")
            .args(["--net", "sh", "-c", "echo; exec sleep infinity"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let output = child.stdout.take().context("its standard output is a pipe")?;
        ensure!(BufReader::new(output).lines().next_line().await?.is_some(), "unshare --net is refused");
        let process = child.id().context("the sandbox has ended")?;
        let wire = format!("{}p{number}", self.name);
        // Ports below 1024 are for everybody there, as in a container.
        let inside = "ip link set lo up; ip address add \"$1/16\" dev eth0; ip link set eth0 up; \
                      ip route add default via \"$2\"; echo 0 >/proc/sys/net/ipv4/ip_unprivileged_port_start";
        shell(
            "set -e; ip link add \"$1\" type veth peer name eth0 netns \"$2\"; ip link set \"$1\" master \"$3\" up; \
             exec nsenter --target \"$2\" --net sh -ec \"$6\" sh \"$4\" \"$5\"",
            &[&wire, &process.to_string(), &self.name, &address.to_string(), &self.gateway().to_string(), inside],
        )
        .await?;
        Ok(Sandbox { process, address, _child: child })
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        // What is left of it is in the way of nobody.
        let _ = Blocking::new("ip").args(["link", "delete", &self.name]).status();
    }
}

async fn shell(script: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("sh").args(["-c", script, "sh"]).args(arguments).stdin(Stdio::null()).output().await?;
    ensure!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
