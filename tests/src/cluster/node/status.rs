//! What a pod says of itself.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{Host, pod::Place};

/// The containers of a pod, by name. One that is not here has not been started yet.
pub(super) type States = BTreeMap<String, One>;

/// A container.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct One {
    pub(super) state: State,
    pub(super) restarts: i32,
    pub(super) ready: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum State {
    Waiting { reason: &'static str, message: String },
    Running { since: Timestamp },
    Ended { code: i32, since: Timestamp, at: Timestamp },
}

impl Default for State {
    fn default() -> Self {
        Self::Waiting { reason: "PodInitializing", message: String::new() }
    }
}

impl One {
    pub(super) fn end(&mut self, code: i32) {
        let at = Timestamp::now();
        let since = if let State::Running { since } = self.state { since } else { at };
        self.state = State::Ended { code, since, at };
        self.ready = false;
    }

    fn ended(&self) -> Option<i32> {
        if let State::Ended { code, .. } = self.state { Some(code) } else { None }
    }

    fn runs(&self) -> bool {
        matches!(self.state, State::Running { .. })
    }
}

/// Writes the status, again after every change. Never ends.
pub(super) async fn report(place: &Place) {
    let mut states = place.states.subscribe();
    let mut since = (false, Timestamp::now());
    loop {
        let now = states.borrow_and_update().clone();
        let status = status(place.spec(), &now);
        if status.ready != since.0 {
            since = (status.ready, Timestamp::now());
        }
        let status = status.object(place.spec(), &now, place.sandbox.address, since.1);
        if write(&place.host, &place.pod, &status).await.is_err() {
            // An API server that is away, or a pod that is gone, which ends this task soon.
            sleep(Duration::from_millis(200)).await;
            continue;
        }
        if states.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Says that the pod cannot be started yet.
pub(super) async fn failed(host: &Host, pod: &Pod, message: &str) {
    let Some(spec) = &pod.spec else { return };
    let waits = || State::Waiting { reason: "CreateContainerConfigError", message: message.to_owned() };
    let statuses: Vec<_> = spec
        .containers
        .iter()
        .map(|container| container_status(container, &One { state: waits(), ..One::default() }))
        .collect();
    let _ = write(host, pod, &json!({"phase": "Pending", "containerStatuses": statuses})).await;
}

async fn write(host: &Host, pod: &Pod, status: &Value) -> kube::Result<()> {
    let pods = Api::<Pod>::namespaced(host.client.clone(), &pod.namespace().unwrap_or_default());
    pods.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(json!({"status": status})))
        .await
        .map(drop)
}

struct Status {
    phase: &'static str,
    initialized: bool,
    ready: bool,
}

fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

fn status(spec: &PodSpec, states: &States) -> Status {
    let one = |container: &Container| states.get(&container.name).cloned().unwrap_or_default();
    let inits = spec.init_containers.as_deref().unwrap_or_default();
    let initialized =
        inits.iter().all(|init| if is_sidecar(init) { one(init).runs() } else { one(init).ended() == Some(0) });
    let again = spec.restart_policy.as_deref().unwrap_or("Always");
    let lost = again == "Never" && inits.iter().any(|init| one(init).ended().is_some_and(|code| code != 0));
    // With OnFailure only an end with 0 is the last.
    let last: Option<Vec<i32>> = spec
        .containers
        .iter()
        .map(|container| one(container).ended().filter(|code| again == "Never" || (again == "OnFailure" && *code == 0)))
        .collect();
    let started = spec.containers.iter().map(one).any(|one| one.restarts > 0 || one.runs() || one.ended().is_some());
    let phase = match last {
        _ if lost => "Failed",
        Some(codes) if codes.iter().all(|code| *code == 0) => "Succeeded",
        Some(_) => "Failed",
        None if started => "Running",
        None => "Pending",
    };
    let sidecars = inits.iter().filter(|init| is_sidecar(init));
    let ready = phase == "Running" && spec.containers.iter().chain(sidecars).all(|container| one(container).ready);
    Status { phase, initialized, ready }
}

impl Status {
    fn object(&self, spec: &PodSpec, states: &States, address: IpAddr, since: Timestamp) -> Value {
        let condition = |kind: &str, holds: bool| json!({"type": kind, "status": if holds { "True" } else { "False" }, "lastTransitionTime": second(since)});
        let statuses = |containers: &[Container]| -> Vec<Value> {
            let one = |container: &Container| states.get(&container.name).cloned().unwrap_or_default();
            containers.iter().map(|container| container_status(container, &one(container))).collect()
        };
        json!({
            "phase": self.phase,
            "podIP": address,
            "podIPs": [{"ip": address}],
            "conditions": [
                condition("PodScheduled", true),
                condition("Initialized", self.initialized),
                condition("ContainersReady", self.ready),
                condition("Ready", self.ready),
            ],
            "initContainerStatuses": statuses(spec.init_containers.as_deref().unwrap_or_default()),
            "containerStatuses": statuses(&spec.containers),
        })
    }
}

fn container_status(container: &Container, One { state, restarts, ready }: &One) -> Value {
    let shown = match state {
        State::Waiting { reason, message } => json!({"waiting": {"reason": reason, "message": message}}),
        State::Running { since } => json!({"running": {"startedAt": second(*since)}}),
        State::Ended { code, since, at } => json!({"terminated": {
            "exitCode": code, "reason": if *code == 0 { "Completed" } else { "Error" },
            "startedAt": second(*since), "finishedAt": second(*at),
        }}),
    };
    json!({
        "name": container.name, "image": container.image, "imageID": "", "ready": ready, "restartCount": restarts,
        "started": matches!(state, State::Running { .. }), "state": shown,
    })
}

/// Kubernetes' times have no fractions.
fn second(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use k8s_openapi::api::core::v1::PodSpec;
    use serde_json::json;

    use super::{One, State, States, status};

    fn spec(restart: &str) -> PodSpec {
        serde_json::from_value(json!({
            "restartPolicy": restart,
            "initContainers": [{"name": "init"}, {"name": "side", "restartPolicy": "Always"}],
            "containers": [{"name": "app"}],
        }))
        .unwrap()
    }

    #[test]
    fn the_phase_follows_the_containers() {
        let run = |ready| One { state: State::Running { since: Timestamp::UNIX_EPOCH }, ready, ..One::default() };
        let end = |code| {
            let mut one = run(true);
            one.end(code);
            one
        };
        let cases = [
            ("Always", vec![], ("Pending", false, false)),
            ("Always", vec![("init", end(0)), ("side", run(true))], ("Pending", true, false)),
            ("Always", vec![("init", end(0)), ("side", run(true)), ("app", run(false))], ("Running", true, false)),
            ("Always", vec![("init", end(0)), ("side", run(true)), ("app", run(true))], ("Running", true, true)),
            ("Always", vec![("init", end(0)), ("side", run(false)), ("app", run(true))], ("Running", true, false)),
            ("Always", vec![("init", end(0)), ("side", run(true)), ("app", end(0))], ("Running", true, false)),
            ("OnFailure", vec![("init", end(0)), ("side", run(true)), ("app", end(1))], ("Running", true, false)),
            ("OnFailure", vec![("init", end(0)), ("side", run(true)), ("app", end(0))], ("Succeeded", true, false)),
            ("Never", vec![("init", end(0)), ("side", run(true)), ("app", end(1))], ("Failed", true, false)),
            ("Never", vec![("init", end(1))], ("Failed", false, false)),
        ];
        for (restart, states, expected) in cases {
            let states: States = states.into_iter().map(|(name, one)| (name.to_owned(), one)).collect();
            let found = status(&spec(restart), &states);
            assert_eq!((found.phase, found.initialized, found.ready), expected, "{restart} {states:?}");
        }
    }
}
