//! `weir deps`.

use clap::ValueEnum;

use super::AdminArgs;

/// `weir deps`.
#[derive(Clone, Debug, clap::Args)]
pub struct DepsArgs {
    /// The running Weir.
    #[command(flatten)]
    pub admin: AdminArgs,
    /// How to print it.
    #[arg(long, short, value_enum, default_value_t, value_name = "FORM")]
    pub output: DepsOutput,
}

/// How a call graph is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum DepsOutput {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
    /// For Graphviz.
    Dot,
}
