//! What the labels and annotations of a pod ask for.

use std::{collections::BTreeSet, net::SocketAddr};

use limiter::{policy::is_dns_label, problem::Problem, quantity::quantity};
use serde_json::Value;

use super::{Settings, containers, invalid, sidecar::OWN_USER};

/// Label of a pod or a namespace: `"true"` asks for a sidecar, `"false"` at a pod wants none.
pub const LABEL: &str = "weir.dev/inject";
/// Annotation that says that there is one, and how it comes by the requests. Written here, read by the index.
pub const MARK: &str = "sidecar.weir.dev/interception";
/// Annotation that says why there is none.
pub const REFUSED: &str = "sidecar.weir.dev/refused";
/// Annotation of a pod that stands behind several Services: whose limits are meant.
pub const NAMED: &str = "inject.weir.dev/service";

/// Annotation that says at which port it takes what the application sends. Written here, read by the index.
pub(super) const INTERCEPT: &str = "outbound.weir.dev/intercept";
/// Annotation by which a pod has a way out that its application knows ([`crate::index`] reads it).
const LISTEN: &str = "outbound.weir.dev/listen";

const PREFIX: &str = "inject.weir.dev/";
const INTERCEPTION: &str = "inject.weir.dev/interception";
/// Annotation: how the sidecar comes by what the application sends.
const OUTBOUND: &str = "inject.weir.dev/outbound";
const EXCLUDED_OUTBOUND: &str = "inject.weir.dev/exclude-outbound-ports";
const RESOURCES: &str = "inject.weir.dev/resources";
const EXCLUDED: &str = "inject.weir.dev/exclude-ports";
const DRAIN: &str = "inject.weir.dev/drain";
const KNOWN: [&str; 7] = [NAMED, INTERCEPTION, OUTBOUND, RESOURCES, EXCLUDED, EXCLUDED_OUTBOUND, DRAIN];
/// Annotations that name ports at which a proxy listens ([`crate::index`] reads them).
const INBOUND: &str = "inbound.weir.dev/";
/// Kubernetes' own, in seconds.
const GRACE: u64 = 30;

/// How Envoy comes by the requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Interception {
    /// iptables hands it what arrives at any port of the pod; an init container with `NET_ADMIN` and `NET_RAW` writes the rules.
    #[default]
    Redirect,
    /// It listens where the Service's `targetPort` leads; nothing needs a privilege.
    None,
}

impl Interception {
    /// As annotations have it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Redirect => "Redirect",
            Self::None => "None",
        }
    }
}

/// What a pod wants.
#[derive(Debug)]
pub(super) struct Wish {
    pub(super) service: Option<String>,
    pub(super) interception: Interception,
    /// Of what the application sends.
    pub(super) outbound: Interception,
    pub(super) resources: Value,
    /// Ports whose traffic does not come to Envoy.
    pub(super) excluded: BTreeSet<u16>,
    /// The same of what the application sends, by the ports to which it does.
    pub(super) excluded_outbound: BTreeSet<u16>,
    pub(super) drain_seconds: u32,
    /// Ports at which the proxy listens, by the pod's own annotations.
    pub(super) listens: BTreeSet<u16>,
}

/// What the pod's label says, if anything.
pub(super) fn label(pod: &Value) -> Result<Option<bool>, Problem> {
    match &pod["metadata"]["labels"][LABEL] {
        Value::Null => Ok(None),
        Value::String(text) if text == "true" => Ok(Some(true)),
        Value::String(text) if text == "false" => Ok(Some(false)),
        other => Err(invalid(
            format!("metadata.labels[{LABEL}]"),
            format!("expected \"true\" or \"false\", found {other}"),
            "quote it: labels are text",
        )),
    }
}

pub(super) fn annotation<'a>(pod: &'a Value, name: &str) -> Option<&'a str> {
    pod["metadata"]["annotations"][name].as_str()
}

impl Wish {
    /// Reads it, or says everything that is wrong with it.
    pub(super) fn read(pod: &Value, settings: &Settings) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let given = pod["metadata"]["annotations"].as_object().into_iter().flatten();
        for (name, _) in given.filter(|(name, _)| name.starts_with(PREFIX) && !KNOWN.contains(&name.as_str())) {
            let known: Vec<_> = KNOWN.iter().map(|known| known.trim_start_matches(PREFIX)).collect();
            let help = format!("those with this prefix are {}", known.join(", "));
            problems.push(invalid(field(name), "the annotation is not known", &help));
        }
        let mut or_told = |result: Result<(), Problem>| result.err().into_iter().for_each(|it| problems.push(it));
        let mut wish = Self {
            service: None,
            interception: settings.interception,
            outbound: settings.outbound,
            resources: settings.resources.clone(),
            excluded: BTreeSet::new(),
            excluded_outbound: BTreeSet::new(),
            drain_seconds: settings.drain_seconds,
            listens: listens(pod),
        };
        or_told(wish.service(pod));
        or_told(wish.interception(pod));
        or_told(wish.outbound(pod));
        or_told(wish.resources(pod));
        or_told(ports(pod, EXCLUDED).map(|ports| wish.excluded = ports));
        or_told(ports(pod, EXCLUDED_OUTBOUND).map(|ports| wish.excluded_outbound = ports));
        or_told(wish.drain(pod));
        if problems.is_empty() { Ok(wish) } else { Err(problems) }
    }

    fn service(&mut self, pod: &Value) -> Result<(), Problem> {
        let Some(name) = annotation(pod, NAMED) else { return Ok(()) };
        if !is_dns_label(name) {
            return Err(invalid(
                field(NAMED),
                format!("expected the name of a Service, found {name:?}"),
                "for example cart",
            ));
        }
        self.service = Some(name.to_owned());
        Ok(())
    }

    fn interception(&mut self, pod: &Value) -> Result<(), Problem> {
        let help = "Redirect: by iptables; None: at the Service's targetPort";
        if let Some(given) = interception(pod, INTERCEPTION, help)? {
            self.interception = given;
        }
        Ok(())
    }

    fn outbound(&mut self, pod: &Value) -> Result<(), Problem> {
        let given = interception(pod, OUTBOUND, "Redirect: by iptables; None: what is sent is left alone")?;
        // A default is for those who can have it.
        let fits = self.interception == Interception::Redirect && annotation(pod, LISTEN).is_none();
        self.outbound = match given.unwrap_or(self.outbound) {
            Interception::Redirect if !fits && given.is_none() => Interception::None,
            wanted => wanted,
        };
        if self.outbound == Interception::None {
            return Ok(());
        }
        if self.interception == Interception::None {
            let message = "what the application sends can be redirected only where what arrives is, too".to_owned();
            return Err(invalid(field(OUTBOUND), message, "say inject.weir.dev/interception: Redirect"));
        }
        if annotation(pod, LISTEN).is_some() {
            let message = format!("there is another way out: the annotation {LISTEN}");
            return Err(invalid(field(OUTBOUND), message, "take that out, or say None"));
        }
        let of_pod = std::iter::once(("spec".to_owned(), &pod["spec"]));
        let of_containers = containers(pod).map(|(list, position, one)| (format!("spec.{list}[{position}]"), one));
        for (place, one) in of_pod.chain(of_containers) {
            if one["securityContext"]["runAsUser"] == OWN_USER {
                let place = format!("{place}.securityContext.runAsUser");
                let message = format!("{OWN_USER} is the sidecar's own user, and nothing that it sends is redirected");
                return Err(invalid(place, message, "let the application run as another user"));
            }
        }
        Ok(())
    }

    fn resources(&mut self, pod: &Value) -> Result<(), Problem> {
        let Some(text) = annotation(pod, RESOURCES) else { return Ok(()) };
        let wrong = |why: String| {
            let help = "for example {requests: {cpu: 100m, memory: 64Mi}, limits: {memory: 256Mi}}";
            invalid(field(RESOURCES), why, help)
        };
        let value: Value = serde_saphyr::from_str(text).map_err(|_| wrong(format!("not YAML: {text:?}")))?;
        is_resources(&value).map_err(wrong)?;
        self.resources = value;
        Ok(())
    }

    fn drain(&mut self, pod: &Value) -> Result<(), Problem> {
        let grace = pod["spec"]["terminationGracePeriodSeconds"].as_u64().unwrap_or(GRACE);
        let fits = |seconds: u32| u64::from(seconds) < grace;
        let Some(text) = annotation(pod, DRAIN) else {
            if !fits(self.drain_seconds) {
                self.drain_seconds = 0;
            }
            return Ok(());
        };
        let seconds = whole_seconds(text)
            .map_err(|why| invalid(field(DRAIN), why, "for example 10s; 0s leaves the containers alone"))?;
        if seconds > 0 && !fits(seconds) {
            let message = format!("{text} does not fit into the {grace}s that the pod has to end");
            return Err(invalid(field(DRAIN), message, "raise spec.terminationGracePeriodSeconds, or give less"));
        }
        self.drain_seconds = seconds;
        Ok(())
    }
}

/// What an annotation says of how Envoy comes by something.
fn interception(pod: &Value, name: &str, help: &str) -> Result<Option<Interception>, Problem> {
    match annotation(pod, name) {
        None => Ok(None),
        Some("Redirect") => Ok(Some(Interception::Redirect)),
        Some("None") => Ok(Some(Interception::None)),
        Some(other) => Err(invalid(field(name), format!("expected Redirect or None, found {other:?}"), help)),
    }
}

/// The ports that an annotation lists.
fn ports(pod: &Value, name: &str) -> Result<BTreeSet<u16>, Problem> {
    let parts = annotation(pod, name).into_iter().flat_map(|text| text.split(',')).map(str::trim);
    let wrong = || {
        let text = annotation(pod, name).unwrap_or_default();
        let message = format!("expected ports separated by commas, found {text:?}");
        invalid(field(name), message, "for example \"5432,6379\"")
    };
    parts.map(|part| part.parse().ok().filter(|port| *port > 0).ok_or_else(wrong)).collect()
}

fn field(annotation: &str) -> String {
    format!("metadata.annotations[{annotation}]")
}

/// A duration of whole seconds, at most an hour; `0s` is none.
///
/// # Errors
/// What is wrong with it.
pub fn whole_seconds(text: &str) -> Result<u32, String> {
    if text == "0s" {
        return Ok(0);
    }
    let found = limiter::language::parse_duration(text).ok().filter(|duration| duration.subsec_nanos() == 0);
    let seconds = found.and_then(|duration| u32::try_from(duration.as_secs()).ok()).filter(|seconds| *seconds <= 3_600);
    seconds.ok_or_else(|| format!("expected whole seconds, at most an hour, found {text:?}"))
}

/// Whether a value is what `resources` of a container may be, as far as the sidecar needs it.
///
/// # Errors
/// What is wrong with it.
pub fn is_resources(value: &Value) -> Result<(), String> {
    let parts = value.as_object().ok_or_else(|| format!("expected requests and limits, found {value}"))?;
    for (part, amounts) in parts {
        if !matches!(part.as_str(), "requests" | "limits") {
            return Err(format!("expected requests and limits, found {part:?}"));
        }
        let amounts = amounts.as_object().ok_or_else(|| format!("{part}: expected cpu and memory, found {amounts}"))?;
        for (resource, amount) in amounts {
            let good = match amount {
                Value::String(text) => quantity(text).is_some(),
                Value::Number(_) => true,
                _ => false,
            };
            if !good {
                return Err(format!("{part}.{resource}: expected a quantity such as 100m or 64Mi, found {amount}"));
            }
        }
    }
    Ok(())
}

/// The ports for which an annotation says where the application answers.
fn listens(pod: &Value) -> BTreeSet<u16> {
    let annotations = pod["metadata"]["annotations"].as_object().into_iter().flatten();
    let ours = annotations.filter_map(|(name, value)| {
        let port = name.strip_prefix(INBOUND)?.parse().ok()?;
        let to = value.as_str()?;
        (to.parse::<u16>().is_ok() || to.parse::<SocketAddr>().is_ok()).then_some(port)
    });
    ours.collect()
}
