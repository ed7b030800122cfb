//! Puts Envoy beside an application: a pod, or a template of one, in; the same with the sidecar out.
//!
//! ```text
//! pod -> wish (what its labels and annotations ask for)
//!          `-> probes (so that no limit refuses kubelet) -> interception (iptables) -> sidecar (Envoy) -> pod
//! text of YAML documents -> documents -> the same, for every template in it
//! ```
//!
//! Pure: the webhook ([`crate::admission`]) and `weir inject` call the same function. In: a pod as JSON, of which what is not known
//! stays as it is, and [`Settings`]. Out: [`Outcome`]. It asks nobody: which Service a pod stands behind is found out when its proxy
//! connects.

mod documents;
mod interception;
mod probes;
mod sidecar;
mod wish;

use limiter::problem::{Problem, Reason};
use serde_json::{Value, json};

pub use self::documents::{Found, documents};
pub use self::wish::{Interception, LABEL, MARK, NAMED, REFUSED, is_resources, whole_seconds};
use self::{probes::Direct, wish::Wish};
use crate::xds::bootstrap::sidecar::OUTBOUND_PORT;

/// Name of the container with Envoy; by it Weir does not count it to the application.
const PROXY: &str = "weir-proxy";
/// Name of the container that writes the rules of iptables.
const RULES: &str = "weir-iptables";
/// Name of the volume with the proxy's token, whom it trusts, and what it was given.
const VOLUME: &str = "weir-proxy";
/// Containers that are proxies themselves.
const OTHERS: [&str; 4] = ["envoy", "istio-proxy", PROXY, RULES];

/// What is the same for all pods.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Image of Envoy.
    pub image: String,
    /// Image with iptables.
    pub iptables_image: String,
    /// How Envoy comes by the requests, unless the pod says it.
    pub interception: Interception,
    /// How Envoy comes by what the application sends, unless the pod says it.
    pub outbound: Interception,
    /// Host and port at which Weir serves xDS.
    pub xds_address: (String, u16),
    /// ConfigMap of the pod's namespace with whom to trust.
    pub ca_config_map: String,
    /// `resources` of Envoy's container, unless the pod says it.
    pub resources: Value,
    /// How long, in seconds, the application goes on serving after the pod is asked to end, unless the pod says it.
    pub drain_seconds: u32,
}

/// What became of a pod.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It asks for no sidecar.
    Unasked,
    /// It has one already.
    Already,
    /// It now has one; with what is odd about it, one sentence each.
    Injected(Value, Vec<String>),
    /// It cannot have one.
    Refused(Vec<Problem>),
}

/// Who asks for sidecars, besides the pods themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Nobody: only pods with the label get one.
    ByPod,
    /// The namespace, or whoever typed the command: all get one but those that say no.
    ForAll,
}

/// Puts the sidecar into a pod, `{metadata, spec}`. `drain_key` is a word that nobody guesses.
#[must_use]
pub fn inject(pod: &Value, asked: Asked, drain_key: &str, settings: &Settings) -> Outcome {
    let shape = misshapen(pod);
    if !shape.is_empty() {
        return Outcome::Refused(shape);
    }
    match wish::label(pod) {
        Ok(Some(false)) => return Outcome::Unasked,
        Ok(None) if asked == Asked::ByPod => return Outcome::Unasked,
        Ok(_) => {}
        Err(problem) => return Outcome::Refused(vec![problem]),
    }
    if wish::annotation(pod, MARK).is_some() {
        return Outcome::Already;
    }
    let mut problems = unfit(pod);
    let wish = match Wish::read(pod, settings) {
        Ok(wish) => wish,
        Err(more) => {
            problems.extend(more);
            return Outcome::Refused(problems);
        }
    };
    problems.extend(taken_ports(pod));
    if !problems.is_empty() {
        return Outcome::Refused(problems);
    }
    let mut pod = pod.clone();
    let mut warnings = Vec::new();
    let mut direct = Direct::default();
    match wish.interception {
        Interception::Redirect => {
            if let Err(problem) = probes::go_direct(&mut pod, &wish, &mut direct) {
                return Outcome::Refused(vec![problem]);
            }
        }
        Interception::None => warnings.extend(probes::meet_limits(&pod, &wish)),
    }
    let sidecar = sidecar::build(&wish, drain_key, settings);
    let rules = interception::rules(&wish, &direct);
    drain(&mut pod, wish.drain_seconds);
    annotate(&mut pod, MARK, wish.interception.word());
    if wish.outbound == Interception::Redirect {
        annotate(&mut pod, wish::INTERCEPT, &OUTBOUND_PORT.to_string());
    }
    for (name, text) in &sidecar.files {
        annotate(&mut pod, &sidecar::annotation(name), text);
    }
    let mut files: Vec<String> = sidecar.files.into_iter().map(|(name, _)| name).collect();
    // Before all others: their probes need the rules, and what starts first ends last.
    let mut first = vec![sidecar.container];
    if wish.interception == Interception::Redirect {
        annotate(&mut pod, &sidecar::annotation(interception::FILE), &rules);
        files.push(interception::FILE.to_owned());
        first.insert(0, interception::container(&settings.iptables_image));
    }
    list(&mut pod, "initContainers").splice(0..0, first);
    list(&mut pod, "volumes").push(sidecar::volume(&files, settings));
    Outcome::Injected(pod, warnings)
}

/// Says in the pod why it has no sidecar.
#[must_use]
pub fn refused(pod: &Value, problems: &[Problem]) -> Value {
    let mut pod = pod.clone();
    let text: Vec<String> = problems.iter().map(ToString::to_string).collect();
    annotate(&mut pod, REFUSED, &text.join("; "));
    pod
}

fn invalid(field: impl Into<String>, message: impl Into<String>, help: &str) -> Problem {
    Problem {
        field: field.into(),
        reason: Reason::Invalid,
        message: message.into(),
        help: Some(help.to_owned()),
        place: None,
    }
}

/// Containers of all kinds, with the list that each stands in and its place there.
fn containers(pod: &Value) -> impl Iterator<Item = (&'static str, usize, &Value)> {
    ["initContainers", "containers"].into_iter().flat_map(move |list| {
        let all = pod["spec"][list].as_array().into_iter().flatten().enumerate();
        all.map(move |(position, container)| (list, position, container))
    })
}

/// What is no pod at all: a file may hold anything. After this, what is written to is there, or null.
fn misshapen(pod: &Value) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut expect = |value: &Value, field: String, what: &str, fits: fn(&Value) -> bool| {
        if !fits(value) {
            let kind = if value.is_null() { "nothing" } else { "something else" };
            problems.push(invalid(field, format!("expected {what}, found {kind}"), "see `kubectl explain pod`"));
        }
    };
    let object = |value: &Value| value.is_null() || value.is_object();
    expect(pod, "pod".to_owned(), "an object", Value::is_object);
    expect(&pod["metadata"], "metadata".to_owned(), "an object", object);
    for name in ["labels", "annotations"] {
        expect(&pod["metadata"][name], format!("metadata.{name}"), "names and texts", object);
    }
    expect(&pod["spec"], "spec".to_owned(), "an object", Value::is_object);
    for name in ["initContainers", "volumes"] {
        expect(&pod["spec"][name], format!("spec.{name}"), "a list", |value| value.is_null() || value.is_array());
    }
    expect(&pod["spec"]["containers"], "spec.containers".to_owned(), "a list", Value::is_array);
    for (list, position, container) in containers(pod) {
        let field = format!("spec.{list}[{position}]");
        expect(container, field.clone(), "an object", Value::is_object);
        expect(&container["lifecycle"], format!("{field}.lifecycle"), "an object", object);
        for path in probes::HANDLERS {
            let handler = container.pointer(path).unwrap_or(&Value::Null);
            expect(handler, format!("{field}{}", path.replace('/', ".")), "an object", object);
        }
    }
    problems
}

/// Why no pod like this can have a sidecar.
fn unfit(pod: &Value) -> Vec<Problem> {
    let spec = &pod["spec"];
    let mut problems = Vec::new();
    if spec["hostNetwork"] == json!(true) {
        problems.push(invalid(
            "spec.hostNetwork",
            "the pod has the network of its node, where a sidecar would take the ports and the requests of others",
            "leave hostNetwork out, or say weir.dev/inject: \"false\"",
        ));
    }
    if spec["os"]["name"] == "windows" {
        problems.push(invalid("spec.os.name", "the sidecar is a program for Linux", "say weir.dev/inject: \"false\""));
    }
    for (list, position, container) in containers(pod) {
        let name = container["name"].as_str().unwrap_or_default();
        if OTHERS.contains(&name) {
            problems.push(invalid(
                format!("spec.{list}[{position}].name"),
                format!("there is a proxy already: a container named {name:?}"),
                "take it out, or say weir.dev/inject: \"false\"; beside Istio, `weir attachment` writes what its proxy needs",
            ));
        }
    }
    let volumes = spec["volumes"].as_array().into_iter().flatten().enumerate();
    for (position, _) in volumes.filter(|(_, volume)| volume["name"] == VOLUME) {
        let message = format!("the sidecar's own volume has the name {VOLUME:?}");
        problems.push(invalid(format!("spec.volumes[{position}].name"), message, "give it another name"));
    }
    problems
}

/// Ports of the application that the sidecar needs.
fn taken_ports(pod: &Value) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (list, position, container) in containers(pod) {
        let ports = container["ports"].as_array().into_iter().flatten().enumerate();
        for (at, port) in ports.filter(|(_, port)| port["containerPort"].as_u64().is_some_and(probes::is_ours)) {
            problems.push(invalid(
                format!("spec.{list}[{position}].ports[{at}].containerPort"),
                format!(
                    "the sidecar needs the ports 15000, 15001, 15006, 15021 and {}, among them {}",
                    probes::RANGE,
                    port["containerPort"]
                ),
                "let the application listen at another port",
            ));
        }
    }
    problems
}

/// Has the application's containers go on for a while after the pod is asked to end, unless they have a way of their own.
fn drain(pod: &mut Value, seconds: u32) {
    if seconds == 0 {
        return;
    }
    for container in pod["spec"]["containers"].as_array_mut().into_iter().flatten() {
        if container["lifecycle"]["preStop"].is_null() {
            container["lifecycle"]["preStop"] = json!({"sleep": {"seconds": seconds}});
        }
    }
}

fn annotate(pod: &mut Value, name: &str, text: &str) {
    // What is null becomes an object when it is written to.
    pod["metadata"]["annotations"][name] = text.into();
}

/// A list of the pod's `spec`.
fn list<'a>(pod: &'a mut Value, name: &str) -> &'a mut Vec<Value> {
    let held = &mut pod["spec"][name];
    if held.is_null() {
        *held = json!([]);
    }
    held.as_array_mut().expect("what is misshapen has been refused")
}

#[cfg(test)]
pub(crate) mod tests;
