//! The life of one pod: its network and volumes, init containers one after the other, then its containers until it is asked to
//! end; then its object goes.

use std::{os::unix::process::ExitStatusExt, path::PathBuf, pin::pin, sync::Arc, time::Duration};

use futures::{StreamExt, future::join_all, stream::FuturesUnordered};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Preconditions},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    Host,
    bridge::Sandbox,
    container, hook, probe,
    status::{self, One, State, States},
    volumes,
};

/// Kubernetes begins with ten seconds; a test would wait for that.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
const GRACE: i64 = 30;

/// A pod that has a place to run.
pub(super) struct Place {
    pub(super) host: Arc<Host>,
    pub(super) pod: Arc<Pod>,
    pub(super) sandbox: Sandbox,
    /// Holds its volumes, and what its containers mount of them.
    pub(super) folder: PathBuf,
    pub(super) states: watch::Sender<States>,
}

/// When a container is started again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Restart {
    Always,
    OnFailure,
    Never,
}

pub(super) async fn run(host: Arc<Host>, pod: Arc<Pod>, stop: CancellationToken) {
    let (Some(namespace), Some(uid)) = (pod.namespace(), pod.uid()) else { return };
    if let Some(place) = place(&host, &pod, &stop).await {
        tokio::select! {
            () = status::report(&place) => {}
            () = place.containers(&stop) => {}
        }
    }
    let _ = std::fs::remove_dir_all(host.home().join("pods").join(&uid));
    let ours = Preconditions { uid: Some(uid), resource_version: None };
    let at_once = DeleteParams::default().grace_period(0).preconditions(ours);
    // Gone already is as good.
    let _ = Api::<Pod>::namespaced(host.client.clone(), &namespace).delete(&pod.name_any(), &at_once).await;
}

/// Tries until all that the pod mounts is there, or it is not wanted any more.
async fn place(host: &Arc<Host>, pod: &Arc<Pod>, stop: &CancellationToken) -> Option<Place> {
    let make = async || {
        let folder = host.home().join("pods").join(pod.uid().unwrap_or_default());
        let sandbox = host.bridge.sandbox().await?;
        let states = watch::Sender::default();
        let place = Place { host: Arc::clone(host), pod: Arc::clone(pod), sandbox, folder, states };
        volumes::prepare(&place).await?;
        anyhow::Ok(place)
    };
    loop {
        match make().await {
            Ok(place) => return Some(place),
            Err(error) => status::failed(host, pod, &format!("{error:#}")).await,
        }
        tokio::select! {
            () = sleep(Duration::from_secs(1)) => {}
            () = stop.cancelled() => return None,
        }
    }
}

impl Place {
    pub(super) fn spec(&self) -> &PodSpec {
        self.pod.spec.as_ref().expect("the API server lets no pod without a spec in")
    }

    pub(super) fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().expect("pods have a namespace")
    }

    pub(super) fn name(&self) -> &str {
        self.pod.metadata.name.as_deref().expect("pods have a name")
    }

    /// Runs them all until it is asked to stop and they have ended: the sidecars last.
    async fn containers(&self, stop: &CancellationToken) {
        let restart = match self.spec().restart_policy.as_deref() {
            Some("Never") => Restart::Never,
            Some("OnFailure") => Restart::OnFailure,
            _ => Restart::Always,
        };
        let stop_sidecars = CancellationToken::new();
        let mut sidecars = FuturesUnordered::new();
        let mut failed = false;
        for init in self.spec().init_containers.iter().flatten() {
            if init.restart_policy.as_deref() == Some("Always") {
                sidecars.push(self.supervise(init, Restart::Always, [stop, &stop_sidecars]));
                beside(&mut sidecars, self.running(&init.name)).await;
            } else {
                let restart = if restart == Restart::Never { Restart::Never } else { Restart::OnFailure };
                failed |= beside(&mut sidecars, self.supervise(init, restart, [stop, stop])).await != 0;
            }
            if failed || stop.is_cancelled() {
                break;
            }
        }
        if !failed {
            let all = self.spec().containers.iter().map(|container| self.supervise(container, restart, [stop, stop]));
            beside(&mut sidecars, join_all(all)).await;
        }
        stop_sidecars.cancel();
        while sidecars.next().await.is_some() {}
        stop.cancelled().await;
    }

    async fn running(&self, container: &str) {
        let runs =
            |states: &States| states.get(container).is_some_and(|one| matches!(one.state, State::Running { .. }));
        // The sender is ours: it cannot be gone.
        let _ = self.states.subscribe().wait_for(runs).await;
    }

    fn change(&self, container: &Container, change: impl FnOnce(&mut One)) {
        self.states.send_modify(|states| change(states.entry(container.name.clone()).or_default()));
    }

    /// Runs a container as often as it is to be: the status of its last end. As the pod is to end its hook runs, and when it is its turn
    /// it ends.
    async fn supervise(&self, container: &Container, restart: Restart, ends: [&CancellationToken; 2]) -> i32 {
        let [_, stop] = ends;
        let mut pause = FIRST_PAUSE;
        let mut code = 0;
        while !stop.is_cancelled() {
            let began = Instant::now();
            code = match self.once(container, ends).await {
                Ok(code) => {
                    self.change(container, |one| one.end(code));
                    code
                }
                Err(error) => {
                    let message = format!("{error:#}");
                    self.change(container, |one| {
                        one.state = State::Waiting { reason: "CreateContainerError", message }
                    });
                    128
                }
            };
            if restart == Restart::Never || (restart == Restart::OnFailure && code == 0) {
                break;
            }
            if began.elapsed() > LONGEST_PAUSE {
                pause = FIRST_PAUSE;
            }
            tokio::select! {
                () = sleep(pause) => {}
                () = stop.cancelled() => break,
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
            self.change(container, |one| one.restarts += 1);
        }
        code
    }

    /// Runs a container once.
    async fn once(&self, container: &Container, [pod_ends, turn]: [&CancellationToken; 2]) -> anyhow::Result<i32> {
        let mut child = container::spawn(self, container).await?;
        let process = child.id().unwrap_or_default();
        let key = [self.namespace(), self.name(), &container.name].map(str::to_owned);
        self.host.processes.lock().insert(key.clone(), process);
        self.change(container, |one| one.state = State::Running { since: Timestamp::now() });
        let grace = self.spec().termination_grace_period_seconds.unwrap_or(GRACE);
        let grace = self.pod.metadata.deletion_grace_period_seconds.unwrap_or(grace);
        let status = tokio::select! {
            status = child.wait() => status?,
            never = probe::follow(container, self.sandbox.address, |ready| self.change(container, |one| one.ready = ready)) => never,
            () = async {
                pod_ends.cancelled().await;
                hook::before_stop(container, self.sandbox.address).await;
                turn.cancelled().await;
            } => {
                // An error says that it has just ended by itself.
                let _ = kill(Pid::from_raw(i32::try_from(process)?), Signal::SIGTERM);
                match timeout(Duration::from_secs(grace.unsigned_abs()), child.wait()).await {
                    Ok(status) => status?,
                    Err(_) => {
                        child.kill().await?;
                        child.wait().await?
                    }
                }
            }
        };
        self.host.processes.lock().remove(&key);
        Ok(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default()))
    }
}

/// Does some work while the sidecars go on.
async fn beside<T, Sidecar: Future>(sidecars: &mut FuturesUnordered<Sidecar>, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    loop {
        tokio::select! {
            value = &mut work => return value,
            Some(_) = sidecars.next() => {}
        }
    }
}
