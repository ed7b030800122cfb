//! What the labels and annotations of a pod ask for.

use std::{collections::BTreeSet, net::SocketAddr};

use limiter::{policy::is_dns_label, problem::Problem, quantity::quantity};
use serde_json::Value;

use super::{Settings, invalid};

/// Label of a pod or a namespace: `"true"` asks for a sidecar, `"false"` at a pod wants none.
pub const LABEL: &str = "weir.dev/inject";
/// Annotation that says that there is one, and how it comes by the requests. Written here, read by the index.
pub const MARK: &str = "sidecar.weir.dev/interception";
/// Annotation that says why there is none.
pub const REFUSED: &str = "sidecar.weir.dev/refused";
/// Annotation of a pod that stands behind several Services: whose limits are meant.
pub const NAMED: &str = "inject.weir.dev/service";

const PREFIX: &str = "inject.weir.dev/";
const INTERCEPTION: &str = "inject.weir.dev/interception";
const RESOURCES: &str = "inject.weir.dev/resources";
const EXCLUDED: &str = "inject.weir.dev/exclude-ports";
const DRAIN: &str = "inject.weir.dev/drain";
const KNOWN: [&str; 5] = [NAMED, INTERCEPTION, RESOURCES, EXCLUDED, DRAIN];
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
    pub(super) resources: Value,
    /// Ports whose traffic does not come to Envoy.
    pub(super) excluded: BTreeSet<u16>,
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
            resources: settings.resources.clone(),
            excluded: BTreeSet::new(),
            drain_seconds: settings.drain_seconds,
            listens: listens(pod),
        };
        or_told(wish.service(pod));
        or_told(wish.interception(pod));
        or_told(wish.resources(pod));
        or_told(wish.excluded(pod));
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
        self.interception = match annotation(pod, INTERCEPTION) {
            None => return Ok(()),
            Some("Redirect") => Interception::Redirect,
            Some("None") => Interception::None,
            Some(other) => {
                let message = format!("expected Redirect or None, found {other:?}");
                return Err(invalid(
                    field(INTERCEPTION),
                    message,
                    "Redirect: by iptables; None: at the Service's targetPort",
                ));
            }
        };
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

    fn excluded(&mut self, pod: &Value) -> Result<(), Problem> {
        let Some(text) = annotation(pod, EXCLUDED) else { return Ok(()) };
        for part in text.split(',').map(str::trim) {
            let port = part.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(|| {
                let message = format!("expected ports separated by commas, found {text:?}");
                invalid(field(EXCLUDED), message, "for example \"5432,6379\"")
            })?;
            self.excluded.insert(port);
        }
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
