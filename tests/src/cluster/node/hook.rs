//! `preStop` hooks: `sleep` and `httpGet`. Kubelet runs those of all containers when the pod is to end, then ends the containers, each
//! in its turn.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use k8s_openapi::api::core::v1::Container;
use tokio::time::{sleep, timeout};

use super::probe::number;
use crate::http;

/// A hook must not keep a test for ever.
const LONGEST: Duration = Duration::from_secs(10);

/// Runs the container's hook, if it has one. As with kubelet, one that fails keeps nothing from ending.
pub(super) async fn before_stop(container: &Container, address: IpAddr) {
    let Some(hook) = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref()) else { return };
    if let Some(pause) = &hook.sleep {
        sleep(Duration::from_secs(pause.seconds.unsigned_abs())).await;
    }
    if let Some(get) = &hook.http_get
        && let Some(port) = number(container, &get.port)
    {
        let path = get.path.as_deref().unwrap_or("/");
        let _ = timeout(LONGEST, http::get(SocketAddr::new(address, port), path)).await;
    }
}
