//! `weir simulate`: what a rule would do to a queue under load, before anyone applies it.

mod picture;
mod trace;

use std::{path::Path, process::ExitCode, time::Duration};

use anyhow::Context;
use limiter::{
    policy::{Action, Limit, Policy, Rule},
    simulation::{self, Guard, Scenario, Service},
};

use super::{files, say};
use crate::{args::SimulateArgs, index::Object};

/// Longest time that is played.
const LONGEST: Duration = Duration::from_secs(3600);

pub(super) fn run(args: &SimulateArgs) -> anyhow::Result<ExitCode> {
    let policies = policies(&args.path)?;
    let (policy, rule) = choose(&policies, args.rule.as_deref())?;
    let scenario = scenario(args, policy, rule)?;
    let run = simulation::run(&scenario);
    if args.json {
        say!("{}", serde_json::to_string_pretty(&run)?);
        return Ok(ExitCode::SUCCESS);
    }
    say!("{}, rule {}", policy.key, rule.name);
    for line in limiter::language::explain(policy).iter().filter(|line| line.contains(&format!("Rule {}:", rule.name)))
    {
        say!("  {line}");
    }
    for line in picture::lines(&scenario, &run, rule) {
        say!("{line}");
    }
    Ok(ExitCode::SUCCESS)
}

/// Every policy of the file or folder; one that is not accepted cannot be played.
fn policies(path: &Path) -> anyhow::Result<Vec<Policy>> {
    let mut policies = Vec::new();
    for input in files::read(&[path.to_owned()])? {
        let name = input.path.display();
        let file = input.result.map_err(|problem| anyhow::anyhow!("{name}: {problem}"))?;
        for decoded in file.objects {
            let (policy, problems) = match decoded.object {
                Object::Policy { policy, problems } => (policy, problems),
                Object::Undecodable(problems) => (None, problems),
                _ => continue,
            };
            if let Some(problem) = problems.first() {
                anyhow::bail!("{name}:{}: {}: {problem}", decoded.line, decoded.key);
            }
            policies.extend(policy.map(|policy| *policy));
        }
    }
    anyhow::ensure!(!policies.is_empty(), "{} holds no policy", path.display());
    Ok(policies)
}

/// The rule that is meant: the one with this name, or the only one.
fn choose<'a>(policies: &'a [Policy], name: Option<&str>) -> anyhow::Result<(&'a Policy, &'a Rule)> {
    let all = policies.iter().flat_map(|policy| policy.rules.iter().map(move |rule| (policy, rule)));
    let found: Vec<_> = all.clone().filter(|(_, rule)| name.is_none_or(|name| rule.name == name)).collect();
    if let [one] = found[..] {
        return Ok(one);
    }
    let names: Vec<_> = all.map(|(policy, rule)| format!("{} of {}", rule.name, policy.key)).collect();
    let names = names.join(", ");
    match name {
        Some(name) if found.is_empty() => anyhow::bail!("--rule: there is no rule {name:?}, only {names}"),
        Some(name) => anyhow::bail!("--rule: several rules are named {name:?} ({names}); give a file with one of them"),
        None => anyhow::bail!("one rule is played at a time: choose one with --rule among {names}"),
    }
}

fn scenario(args: &SimulateArgs, policy: &Policy, rule: &Rule) -> anyhow::Result<Scenario> {
    anyhow::ensure!(
        rule.matches.is_empty(),
        "rule {}: the model has no paths or headers, so `matches` cannot be played",
        rule.name
    );
    if let Action::Limit(Limit { per: Some(_), .. }) = &rule.action {
        anyhow::bail!(
            "rule {}: the model's requests have no address or headers, so a limit counted `per` them cannot be played; try the same \
             limit without `per`",
            rule.name
        );
    }
    let service = Service {
        pods: args.pods,
        workers: args.workers,
        mean: args.service_time,
        variation: 0.5,
        works_on_abandoned: args.works_on_abandoned,
    };
    let capacity = service.capacity();
    let mut scenario = match (&args.trace, args.halved) {
        (Some(path), _) => {
            let text =
                std::fs::read_to_string(path).with_context(|| format!("--trace: {} cannot be read", path.display()))?;
            let trace = trace::read(&text).with_context(|| format!("--trace: {}", path.display()))?;
            let length = trace.length.min(LONGEST);
            Scenario { offered: trace.offered, surge: (Duration::ZERO, length), length, ..Scenario::surge(1.0) }
        }
        (None, true) => Scenario::halved().seconds(10, 20, 10),
        (None, false) => Scenario::surge(args.surge).seconds(10, 20, 10),
    };
    if args.trace.is_none() {
        // The shapes are written for their own service of 400 requests per second.
        let factor = capacity / scenario.service.capacity();
        scenario.offered.iter_mut().for_each(|(_, rate)| *rate *= factor);
    }
    let busiest = scenario.offered.iter().map(|(_, rate)| *rate).fold(capacity, f64::max);
    let requests = busiest * scenario.length.as_secs_f64();
    anyhow::ensure!(
        requests <= 2e7,
        "that would be up to {requests:.0} requests, more than are played in reasonable time: use fewer pods or workers, a longer \
         --service-time or a smaller --surge"
    );
    Ok(Scenario {
        service,
        classes: classes(&args.classes, rule)?,
        wanted_within: args.within,
        timeout: (args.within * 5).max(args.service_time * 10),
        observe_every: args.observe_every,
        seed: args.seed,
        guard: Guard::Rule(Box::new(rule.clone()), policy.on_missing.clone()),
        ..scenario
    })
}

/// Which part of the requests each class has; equal parts unless said otherwise.
fn classes(parts: &[f64], rule: &Rule) -> anyhow::Result<Vec<f64>> {
    let named = rule.classes.len();
    if parts.is_empty() {
        return Ok(vec![1.0 / (named + 1) as f64; named]);
    }
    anyhow::ensure!(
        parts.len() == named && parts.iter().sum::<f64>() <= 1.0,
        "--classes: expected the part of each of the {named} classes of rule {}, at most 100% together, found {parts:?}",
        rule.name
    );
    Ok(parts.to_vec())
}
