//! What a policy means, in plain English.

use crate::{
    adapt::{COOLDOWN, EVERY},
    language::{
        ast::{Adapt, Condition, Dimension, Expression, Pace},
        display::interval_name,
        units::{write_duration, write_value},
    },
    policy::{
        Action, EnforceAt, Key, LawKind, Limit, MissingAction, Mode, PathMatch, Policy, RequestMatch, Rule, Scope,
        Targets, ValueMatch, When,
    },
};

/// Plain sentences that say what `policy` means: its targets, each rule, and what happens when metrics are missing.
#[must_use]
pub fn explain(policy: &Policy) -> Vec<String> {
    let mut lines = vec![targets(policy)];
    lines.extend(place(policy));
    for rule in &policy.rules {
        lines.extend(explain_rule(rule));
    }
    if policy.needs().is_empty() {
        lines.push("No rule reads a metric, so the limits never change.".to_owned());
    } else {
        lines.push(missing(policy));
    }
    lines
}

fn targets(policy: &Policy) -> String {
    let namespace = &policy.key.namespace;
    match &policy.targets {
        Targets::Services(names) if names.len() == 1 => {
            format!("Applies to Service {} in namespace {namespace}.", names.join(", "))
        }
        Targets::Services(names) => {
            format!("Applies to each of the Services {} in namespace {namespace}, separately.", names.join(", "))
        }
        Targets::Selector(labels) => {
            let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
            format!(
                "Applies to each Service in namespace {namespace} that has the labels {}, separately.",
                labels.join(", ")
            )
        }
    }
}

/// Where the limits stand, when that is not at the target itself.
fn place(policy: &Policy) -> Option<String> {
    let namespace = &policy.key.namespace;
    match policy.enforce_at {
        EnforceAt::Server => None,
        EnforceAt::Client => Some(format!(
            "Enforced at the proxies of its callers in namespace {namespace}, before a request leaves: `pod` means a calling pod."
        )),
        EnforceAt::Gateway => {
            Some("Enforced at the gateways whose routes lead to it: `pod` means a gateway's pod.".to_owned())
        }
    }
}

fn explain_rule(rule: &Rule) -> Vec<String> {
    let requests = which_requests(&rule.matches);
    let mut lines = Vec::new();
    let head = match &rule.when {
        None => "always".to_owned(),
        Some(When { condition, .. }) => format!("when {condition}"),
    };
    match &rule.action {
        Action::Limit(limit) => {
            lines.push(format!("Rule {}: {head}, {requests} limited to {}.", rule.name, amount(limit)));
            lines.extend(sharing(limit));
        }
        Action::Adapt(adapt) => {
            lines.push(format!("Rule {}: {head}, {}", rule.name, explain_adapt(adapt, &requests)));
            lines.push(explain_moves(adapt, rule.matches.is_empty()));
        }
    }
    if let Some(when) = &rule.when {
        let origin = if when.explicit_until {
            ""
        } else {
            " (derived from the condition: 90% of each threshold, held three times as long)"
        };
        lines.push(match &when.until {
            Condition::Literal(false) => "It is never released.".to_owned(),
            until => {
                format!("It is released when {until}{origin}; the limit then doubles each second until it vanishes.")
            }
        });
    }
    if !rule.classes.is_empty() {
        let names: Vec<&str> = rule.classes.iter().map(|class| class.name.as_str()).collect();
        lines.push(format!(
            "When not all can pass, requests of {} come first, in this order; others are shed before them.",
            names.join(", ")
        ));
    }
    if let Some(burst) = rule.burst {
        let noun = if burst == 1 { "request" } else { "requests" };
        lines.push(format!("Up to {burst} {noun} may pass at once."));
    }
    lines.push(match rule.mode {
        Mode::Enforce => "Requests over the limit are answered 429.".to_owned(),
        Mode::Shadow => "Shadow: requests over the limit are counted and reported, none is rejected.".to_owned(),
    });
    lines
}

fn amount(limit: &Limit) -> String {
    let noun = if limit.amount == Expression::Number(1.0) { "request" } else { "requests" };
    let per = match &limit.per {
        None => String::new(),
        Some(Key::ClientIp) => " for each client address".to_owned(),
        Some(Key::Header(name)) => format!(" for each value of the header {name}"),
    };
    format!("{} {noun} per {}{per}", limit.amount, interval_name(limit.interval))
}

/// What a limit adds up to over several pods.
fn sharing(limit: &Limit) -> Vec<String> {
    let mut lines = vec![match (limit.scope, &limit.per) {
        (Scope::AcrossAllPods, None) => {
            "All ready pods share that number: Weir divides it so that the parts add up exactly.".to_owned()
        }
        (Scope::AcrossAllPods, Some(_)) => {
            "Each client's number is divided among all ready pods, so a client gets the whole of it only when its requests reach all pods evenly.".to_owned()
        }
        (Scope::PerPod, None) => "Every pod has the whole number: with N pods the service admits up to N times this.".to_owned(),
        (Scope::PerPod, Some(_)) => {
            "Each proxy counts alone: with N proxies a client may get N times this.".to_owned()
        }
    }];
    if let Some(Key::Header(name)) = &limit.per {
        lines.push(format!("Requests without the header {name} are not limited by this rule."));
    }
    lines
}

fn explain_adapt(adapt: &Adapt, requests: &str) -> String {
    let sentence = Adapt { pace: Pace::default(), ..adapt.clone() }.to_string();
    let (goals, range) = sentence.split_once(", between ").unwrap_or((&sentence, ""));
    let goals = goals.strip_prefix("keep ").unwrap_or(goals);
    format!("{requests} limited so that {goals} is kept, by a limit that moves between {range}.")
}

/// How a limit that steers itself moves.
fn explain_moves(adapt: &Adapt, bounded: bool) -> String {
    let step = write_value(adapt.pace.step.unwrap_or_else(|| adapt.law.default_step()), Dimension::Ratio);
    let (every, cooldown) = (adapt.pace.every.unwrap_or(EVERY), adapt.pace.cooldown.unwrap_or(COOLDOWN));
    let (cut, of) = match adapt.law {
        LawKind::CompletionRate if bounded => ("to what the pods complete", "itself"),
        LawKind::CompletionRate => ("by as much as the goal is missed", "itself"),
        LawKind::Aimd => ("to 70% of what is offered", "its range"),
    };
    let bound = if bounded { ", and requests in flight are bounded" } else { "" };
    format!(
        "It begins at the upper end. When a goal is missed it is cut {cut}{bound}; it grows by at most {step} of {of} every {}, not sooner than {} after a cut.",
        write_duration(every),
        write_duration(cooldown)
    )
}

fn which_requests(matches: &[RequestMatch]) -> String {
    if matches.is_empty() {
        return "all requests are".to_owned();
    }
    let alternatives: Vec<String> = matches.iter().map(one_match).collect();
    format!("requests {} are", alternatives.join(", or "))
}

fn one_match(request: &RequestMatch) -> String {
    let mut parts = Vec::new();
    if let Some(method) = &request.method {
        parts.push(format!("with method {method}"));
    }
    match &request.path {
        None => {}
        Some(PathMatch::Exact(path)) => parts.push(format!("to exactly {path}")),
        Some(PathMatch::Prefix(path)) => parts.push(format!("to {path} and below")),
        Some(PathMatch::Regex(regex)) => parts.push(format!("to paths that match {regex}")),
    }
    for (kind, values) in [("header", &request.headers), ("query parameter", &request.query_params)] {
        for (name, value) in values {
            parts.push(match value {
                ValueMatch::Exact(value) => format!("with {kind} {name} equal to {value}"),
                ValueMatch::Regex(regex) => format!("with {kind} {name} matching {regex}"),
            });
        }
    }
    if parts.is_empty() { "of every kind".to_owned() } else { parts.join(" ") }
}

fn missing(policy: &Policy) -> String {
    let metrics: Vec<String> = policy.needs().iter().map(ToString::to_string).collect();
    let after = write_duration(policy.on_missing.after);
    let then = match &policy.on_missing.action {
        MissingAction::Hold => "what was last decided stays".to_owned(),
        MissingAction::Floor(limit) => format!("the limit is {limit}"),
        MissingAction::Release => "the limit is released".to_owned(),
    };
    format!("Reads {}. When one of these is missing for {after}, {then}.", metrics.join(", "))
}
