//! The demonstration of lazy loading: two callers in a mesh of many services. The proxy of one has everything from the start, that of
//! the other starts with nothing, gets what is called, and forgets what is not.

mod acts;
mod caller;
mod findings;
mod mesh;
mod page;
mod steady;
mod verdict;

use std::process::ExitCode;

use tokio_util::sync::CancellationToken;

use self::{
    caller::Caller,
    findings::{less, megabytes},
    mesh::{CALLED, Mesh, lazy_config},
};
use super::{
    args::LazyArgs,
    cast::{ADMIN_PORT, XDS_PORT, loopback, proxy_admins},
    say,
    stage::Stage,
    summary, write_page,
};

/// The eager one, then the lazy one.
const CALLERS: usize = 2;

pub(super) async fn perform(args: &LazyArgs, stop: &CancellationToken) -> anyhow::Result<(ExitCode, Stage)> {
    let (xds, admin) = (loopback(XDS_PORT)?, loopback(ADMIN_PORT)?);
    let mut stage = Stage::empty(xds, admin)?;
    let mesh = Mesh::start(usize::from(args.services)).await?;
    let [eager_way_out, lazy_way_out] = mesh::ways_out()?;
    let admins = proxy_admins(CALLERS)?;
    let mut callers = [Caller::new("eager", eager_way_out, admins[0]), Caller::new("lazy", lazy_way_out, admins[1])];
    mesh.write(&stage.config(), &callers)?;
    say(&format!(
        "a mesh of {} services, {CALLED} of which are called, by two callers. No LazyConfig is for `eager`: its proxy has everything. That of \
         `lazy` starts with nothing:\n{}\n",
        args.services,
        lazy_config()
    ));
    let findings = match acts::play(&mut stage, &mesh, &mut callers, admin).await {
        Ok(findings) => findings,
        Err(error) => return Err(stage.failed(error)),
    };

    let verdict = verdict::judge(&findings);
    say(&format!("\n{}", summary::text(&page::rows(&findings))));
    for check in &verdict.checks {
        say(&format!("{} {}: {}", if check.passed { "ok    " } else { "FAILED" }, check.subject, check.detail));
    }
    write_page(&args.end.out, &page::page(&findings, &verdict))?;
    say(&format!("plot: {}", args.end.out.display()));
    let passed = verdict.passed();
    if passed {
        let [eager, lazy] = findings.sides.each_ref().map(|side| side.after_calls.allocated);
        say(&format!(
            "PASSED: {} of {} services, {} instead of {} allocated ({:.0} % less), no request lost",
            findings.called.len(),
            findings.services,
            megabytes(lazy),
            megabytes(eager),
            less(lazy, eager)
        ));
    } else {
        say("FAILED: see above");
    }
    if args.end.keep {
        say(&keep_text(&callers, &stage, &findings.called));
        stop.cancelled().await;
    }
    if !passed {
        stage.keep_folder();
        say(&format!("logs: {}", stage.folder().display()));
    }
    Ok((ExitCode::from(u8::from(!passed)), stage))
}

fn keep_text(callers: &[Caller; CALLERS], stage: &Stage, called: &[String]) -> String {
    let program = std::env::current_exe().map_or_else(|_| "weir".to_owned(), |program| program.display().to_string());
    let admin = stage.admin();
    let mut text = format!(
        "\nstill running, until Ctrl-C. To play with:\n  what is in force   {program} status --admin-address {admin}\n  \
         who calls whom     {program} deps --admin-address {admin}\n  \
         configuration      {} (edit lazy.yaml: it takes effect when saved)\n  logs               {}\n  \
         services           {}\n",
        stage.config().display(),
        stage.folder().display(),
        called.join(" "),
    );
    for Caller { name, way_out, admin, .. } in callers {
        text.push_str(&format!(
            "  {name:<18} curl -i -H 'Host: {}' http://{way_out}/   (its Envoy's clusters: curl http://{admin}/clusters)\n",
            called.first().map_or("s0", String::as_str)
        ));
    }
    text.trim_end().to_owned()
}
