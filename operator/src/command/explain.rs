//! `weir explain`: what policies mean, in plain English.

use std::process::ExitCode;

use super::{files, say};
use crate::{args::ExplainArgs, index::Object};

pub(super) fn run(args: &ExplainArgs) -> anyhow::Result<ExitCode> {
    let (mut policies, mut broken) = (0, 0);
    for input in files::read(&args.paths)? {
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
            let (policy, problems) = match &decoded.object {
                Object::Policy { policy, problems } => (policy.as_ref(), problems),
                Object::Undecodable(problems) => (None, problems),
                _ => continue,
            };
            policies += 1;
            say!("{} ({}:{})", decoded.key, input.path.display(), decoded.line);
            for line in policy.iter().flat_map(|policy| limiter::language::explain(policy)) {
                say!("  {line}");
            }
            if !problems.is_empty() {
                broken += 1;
                say!("  Not accepted:");
            }
            for problem in problems {
                say!("    {problem}");
            }
            say!("");
        }
    }
    if policies == 0 && broken == 0 {
        say!("no policies in these files");
    }
    Ok(if broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
