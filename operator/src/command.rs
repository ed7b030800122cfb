//! The commands of `weir`, one file each.

mod admin;
mod bootstrap;
mod deps;
mod explain;
mod files;
mod inject;
mod pause;
mod run;
mod simulate;
mod status;
mod translate;
mod validate;

use std::process::ExitCode;

use clap::CommandFactory;

use crate::args::{Args, Command};

pub use translate::{Staged, staged};
pub use validate::{Finding, findings};

/// Runs what was typed.
///
/// # Errors
/// When the command cannot do its work; the message names what and why.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Run(args) => run::run(*args).await,
        Command::Validate(args) => validate::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Translate(args) => translate::run(&args),
        Command::Simulate(args) => simulate::run(&args),
        Command::Bootstrap(args) => bootstrap::run(&args),
        Command::Attachment(args) => bootstrap::attach(&args),
        Command::Inject(args) => inject::run(args),
        Command::Status(args) => status::run(&args).await,
        Command::Deps(args) => deps::run(&args).await,
        Command::Pause(args) => pause::run(&args, "/pause").await,
        Command::Resume(args) => pause::run(&args, "/resume").await,
        Command::Demo(args) => crate::demo::run(args).await,
        Command::DemoService(args) => crate::demo::service::run(args).await,
        Command::DemoLoad(args) => crate::demo::client::run(args).await,
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Args::command(), "weir", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Prints a line for the user; a closed pipe (`weir … | head`) ends the process quietly.
macro_rules! say {
    ($($part:tt)*) => {{
        use std::io::Write as _;
        if writeln!(std::io::stdout(), $($part)*).is_err() {
            return Ok(std::process::ExitCode::SUCCESS);
        }
    }};
}
pub(crate) use say;
