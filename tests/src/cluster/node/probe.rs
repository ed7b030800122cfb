//! Readiness probes: `httpGet` and `tcpSocket`; of the others only that the port answers or the container runs.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use k8s_openapi::{
    api::core::v1::{Container, Probe},
    apimachinery::pkg::util::intstr::IntOrString,
};
use tokio::{
    net::TcpStream,
    time::{interval, sleep, timeout},
};

use crate::http;

/// Tells whether the container is ready whenever that changes. Never ends.
pub(super) async fn follow<T>(container: &Container, address: IpAddr, tell: impl Fn(bool)) -> T {
    let Some(probe) = &container.readiness_probe else {
        tell(true);
        return std::future::pending().await;
    };
    let seconds = |value: Option<i32>, default: u64| {
        Duration::from_secs(value.and_then(|value| u64::try_from(value).ok()).unwrap_or(default))
    };
    let needed = |value: Option<i32>, default: i32| value.unwrap_or(default).max(1);
    sleep(seconds(probe.initial_delay_seconds, 0)).await;
    let mut looks = interval(seconds(probe.period_seconds, 10).max(Duration::from_secs(1)));
    let (mut ready, mut against) = (false, 0);
    loop {
        looks.tick().await;
        let fine = timeout(seconds(probe.timeout_seconds, 1), look(container, probe, address)).await.unwrap_or(false);
        against = if fine == ready { 0 } else { against + 1 };
        let threshold = if ready { needed(probe.failure_threshold, 3) } else { needed(probe.success_threshold, 1) };
        if against >= threshold {
            (ready, against) = (fine, 0);
            tell(ready);
        }
        if !ready {
            // A test should not wait for a period of ten seconds.
            looks.reset_after(Duration::from_millis(200));
        }
    }
}

async fn look(container: &Container, probe: &Probe, address: IpAddr) -> bool {
    let connects = async |port: Option<u16>| match port {
        Some(port) => TcpStream::connect((address, port)).await.is_ok(),
        None => false,
    };
    if let Some(get) = &probe.http_get {
        let Some(port) = number(container, &get.port) else { return false };
        if get.scheme.as_deref() == Some("HTTPS") {
            return connects(Some(port)).await;
        }
        let path = get.path.as_deref().unwrap_or("/");
        return match http::get(SocketAddr::new(address, port), path).await {
            Ok(answer) => answer.status().is_success() || answer.status().is_redirection(),
            Err(_) => false,
        };
    }
    if let Some(socket) = &probe.tcp_socket {
        return connects(number(container, &socket.port)).await;
    }
    if let Some(grpc) = &probe.grpc {
        return connects(u16::try_from(grpc.port).ok()).await;
    }
    true
}

/// A port may be named.
pub(super) fn number(container: &Container, port: &IntOrString) -> Option<u16> {
    match port {
        IntOrString::Int(number) => u16::try_from(*number).ok(),
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|port| port.name.as_ref() == Some(name));
            named.and_then(|port| u16::try_from(port.container_port).ok()).or_else(|| name.parse().ok())
        }
    }
}
