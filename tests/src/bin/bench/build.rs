//! The pure stages alone, in one thread: index, decision, translation, encoding, table.

use std::time::Duration;

use jiff::Timestamp;
use operator::{build::Builder, xds::table::Table};

use crate::{
    clock, mesh,
    report::{Durations, Row, us},
};

const SIZE: usize = 1000;
const ROUNDS: usize = 50;

pub(crate) fn run() -> anyhow::Result<Vec<Row>> {
    let limit = |object: &str, service: &str, per_second: usize| {
        let rule = format!("name: all, limit: {per_second} requests per second per pod");
        mesh::changes(&mesh::policy(object, service, &[rule]))
    };

    let mut fleet = mesh::changes(&mesh::service(mesh::SERVICE, SIZE))?;
    fleet.extend(limit("all", mesh::SERVICE, 10)?);
    let one_service = timed(&fleet, |round| limit("all", mesh::SERVICE, 11 + round % 2))?;

    let mut many = Vec::new();
    for n in 0..SIZE {
        let name = format!("s{n}");
        many.extend(mesh::changes(&mesh::service(&name, 1))?);
        many.extend(limit(&name, &name, 10)?);
    }
    let many_services = timed(&many, |round| limit("s500", "s500", 11 + round % 2))?;

    Ok(vec![
        Row::plain(format!("a service of {SIZE} pods, from nothing"), one_service.0),
        Row::plain(
            format!("one changed limit of it: {SIZE} new route configurations, median of {ROUNDS}"),
            one_service.1,
        ),
        Row::plain(format!("{SIZE} services of one pod, from nothing"), many_services.0),
        Row::plain(format!("one changed limit of one of them, median of {ROUNDS}"), many_services.1),
    ])
}

/// Times from nothing, and for the median change.
fn timed(
    all: &[operator::index::Change],
    change: impl Fn(usize) -> anyhow::Result<Vec<operator::index::Change>>,
) -> anyhow::Result<(String, String)> {
    let mut builder = Builder::new(Table::new());
    let now = Timestamp::now();
    let full = time(|| _ = builder.apply(all.to_vec(), now));
    let mut single = Vec::new();
    for round in 0..ROUNDS {
        let changes = change(round)?;
        single.push(time(|| _ = builder.apply(changes, now)));
    }
    Ok((us(full), us(Durations::new(single)?.percentile(50))))
}

fn time(work: impl FnOnce()) -> Duration {
    let start = clock::now();
    work();
    clock::now() - start
}
