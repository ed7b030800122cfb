//! `make bench`: reproduces each number of docs/performance.md on real processes and prints it beside its goal.
//!
//! In: names of benchmarks, Envoy from `ENVOY_BIN` or `make envoy`. Out: a Markdown table on stdout, progress on stderr.
//! A missed goal is a finding, not a failure: only a benchmark that could not run ends the program with 1.

mod build;
mod clock;
mod cluster;
mod enforce;
mod fanout;
mod flagger;
mod gov;
mod http;
mod lazy;
mod mesh;
mod rates;
mod reconnect;
mod replicas;
mod report;
mod rig;
mod scale;
mod split;
mod step;
mod streams;
mod trust;

use std::{io::Write, process::ExitCode};

use clap::{Parser, Subcommand, ValueEnum};

/// Measures Weir on this machine and prints each number beside its goal.
#[derive(Debug, Parser)]
#[command(name = "bench", subcommand_negates_reqs = true, args_conflicts_with_subcommands = true)]
struct Args {
    /// What to measure; everything unless named.
    #[arg(value_name = "NAME")]
    names: Vec<Name>,
    #[command(flatten)]
    gov: gov::GovArgs,
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Name {
    /// Time to build a service of 1,000 pods, and one of 1,000 services, from nothing and after one change.
    Build,
    /// One changed limit to 1,000 connected delta streams: time to the last, CPU of a push, memory of a stream.
    Fanout,
    /// 1,000 delta streams over TLS come back after Weir was killed: time to the last, resources that are sent again.
    Reconnect,
    /// What TLS and tokens cost: CPU of a connection and of a push, memory of a stream, beside plain text.
    Trust,
    /// From a push to the first 429 on a real Envoy, and connections closed by changes.
    Enforce,
    /// From a moved weight to moved traffic on a real Envoy, and connections closed by moved weights.
    Split,
    /// From a version turning bad to the end of its traffic, by a real Flagger on a real API server and by a SmartSplit.
    Flagger,
    /// Requests that a real Envoy admits against limit x time + burst, from 1 per day to 20,000 per second.
    Rates,
    /// From a step of a metric to the first 429, through a whole `weir run` that reads a metrics page.
    Step,
    /// CPU of Weir for 500 policies with five rules each, decided four times a second from a real Prometheus.
    Scale,
    /// On a real API server: from `kubectl apply` to the first 429, and what 1,000 Services with 500 limiters cost.
    Cluster,
    /// Two replicas: what the link between them costs, and how soon the other takes over from one that is killed or told to end.
    Replicas,
    /// A proxy that has everything against one that has what is called: memory, start, first calls, changes elsewhere.
    Lazy,
    /// GOV-1: a service above its capacity without protection, under Envoy's own, and under each of Weir's.
    Gov,
}

/// What is no benchmark.
#[derive(Debug, Subcommand)]
enum Part {
    /// A process that `fanout` starts: Weir with this many pods, told what to do on stdin.
    #[command(hide = true)]
    FanoutServer {
        /// Pods of the service.
        pods: usize,
    },
    /// Kills either of two replicas again and again under load, and fails when anything comes of it: `make soak`.
    Soak(replicas::soak::SoakArgs),
}

fn main() -> ExitCode {
    let args = Args::parse();
    let outcome = match args.part {
        Some(Part::FanoutServer { pods }) => fanout::server::serve(pods),
        Some(Part::Soak(args)) => replicas::soak::run(&args),
        None if args.names.is_empty() => measure(Name::value_variants(), &args.gov),
        None => measure(&args.names, &args.gov),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs every benchmark, even after one that could not run, and prints what was measured.
fn measure(names: &[Name], gov: &gov::GovArgs) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{}", report::HEAD)?;
    let mut failures = Vec::new();
    for name in names {
        let word = name.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        eprintln!("# {word}");
        match run(*name, &word, gov) {
            Ok(lines) => write!(out, "{lines}")?,
            Err(error) => {
                eprintln!("{word} could not run: {error:#}");
                failures.push(word);
            }
        }
        out.flush()?;
    }
    anyhow::ensure!(failures.is_empty(), "could not run: {}", failures.join(", "));
    Ok(())
}

/// In a task of a runtime of its own, so that a panic of the test kit ends this benchmark and not all of them.
fn in_a_task<T: Send + 'static>(work: impl Future<Output = anyhow::Result<T>> + Send + 'static) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async { tokio::spawn(work).await? })
}

/// Lines of Markdown.
fn run(name: Name, word: &str, gov: &gov::GovArgs) -> anyhow::Result<String> {
    let rows = match name {
        Name::Build => build::run(),
        Name::Fanout => fanout::run(),
        Name::Reconnect => reconnect::run(),
        Name::Trust => trust::run(),
        Name::Enforce => enforce::run(),
        Name::Split => split::run(),
        Name::Flagger => flagger::run(),
        Name::Rates => rates::run(),
        Name::Step => step::run(),
        Name::Scale => scale::run(),
        Name::Cluster => cluster::run(),
        Name::Replicas => replicas::run(),
        Name::Lazy => lazy::run(),
        // Its table has columns of its own.
        Name::Gov => return gov::run(gov).map(|table| format!("\n{table}\n")),
    };
    Ok(rows?.iter().map(|row| row.markdown(word) + "\n").collect())
}
