//! Logging: to standard error, as text or JSON. Traces are in `traces`.

pub mod traces;

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::args::{LogArgs, LogFormat};

/// Starts logging. A second call changes nothing.
pub fn init(args: &LogArgs) {
    // The filter was parsed when it was typed.
    let mut filter = EnvFilter::new(&args.log);
    // They log each request that fails; who asked says what that means.
    for quiet in ["kube_client::client::builder=off", "kube_runtime::watcher=off"] {
        filter = filter.add_directive(quiet.parse().expect("a directive of ours"));
    }
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let _ = match args.log_format {
        LogFormat::Json => builder.json().try_init(),
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
    };
}
