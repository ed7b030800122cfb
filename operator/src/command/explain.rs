//! `weir explain`: what policies mean, in plain English; with `--at`, what they would do with given numbers.

mod at;

use std::{path::PathBuf, process::ExitCode};

use jiff::Timestamp;
use limiter::problem::Reason;

use super::{files, say};
use crate::{
    args::ExplainArgs,
    index::{Change, Object},
    watch::decode::Decoded,
};

pub(super) fn run(args: &ExplainArgs) -> anyhow::Result<ExitCode> {
    let (mut policies, mut broken) = (0, 0);
    let inputs = files::read(&args.paths)?;
    let objects = inputs.iter().filter_map(|input| input.result.as_ref().ok()).flat_map(|file| &file.objects);
    let changes: Vec<Change> = objects.filter(|_| args.at.is_some()).map(applied).collect();
    let decide = |path: &PathBuf| {
        // What the builder logs of made-up time is no news.
        let silent = tracing::subscriber::NoSubscriber::default();
        tracing::subscriber::with_default(silent, || at::decide(path, changes.clone(), Timestamp::now()))
    };
    let outcome = args.at.as_ref().map(decide).transpose()?;
    for input in inputs {
        let file = match input.result {
            Ok(file) => file,
            Err(problem) => {
                broken += 1;
                say!("{}: {problem}\n", input.path.display());
                continue;
            }
        };
        for problem in &file.problems {
            broken += 1;
            say!("{}: {problem}\n", input.path.display());
        }
        for decoded in file.objects {
            let (policy, sentences, problems) = match &decoded.object {
                Object::Policy { policy, problems } => {
                    let sentences = policy.iter().flat_map(|policy| limiter::language::explain(policy)).collect();
                    (policy.as_ref(), sentences, problems)
                }
                Object::Lazy { lazy, problems } => {
                    (None, lazy.as_deref().map(limiter::lazy::explain).unwrap_or_default(), problems)
                }
                Object::Split { split, problems } => {
                    let text = split.as_deref().map(limiter::split::explain).unwrap_or_default();
                    (None, text.lines().map(str::to_owned).collect(), problems)
                }
                Object::Undecodable(problems) => (None, Vec::new(), problems),
                _ => continue,
            };
            policies += 1;
            say!("{} ({}:{})", decoded.key, input.path.display(), decoded.line);
            for line in sentences {
                say!("  {line}");
            }
            if !problems.is_empty() {
                broken += 1;
                say!("  Not accepted:");
            }
            for problem in problems {
                say!("    {problem}");
            }
            for line in policy.iter().zip(&outcome).flat_map(|(policy, outcome)| outcome.lines(policy)) {
                say!("  {line}");
            }
            say!("");
        }
    }
    if policies == 0 && broken == 0 {
        say!("no policies in these files");
    }
    Ok(if broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// An object as it would be: what is only not carried out yet can be decided all the same.
fn applied(decoded: &Decoded) -> Change {
    let object = match decoded.object.clone() {
        Object::Policy { policy, problems }
            if problems.iter().all(|problem| problem.reason == Reason::NotYetSupported) =>
        {
            Object::Policy { policy, problems: Vec::new() }
        }
        other => other,
    };
    Change::Apply { key: decoded.key.clone(), origin: String::new(), object }
}
