use jiff::SignedDuration;

use super::*;
use crate::{build::Builder, index::Change, metrics::calls::Used, tests::changes, xds::table::Table};

const CALLERS: &str = "apiVersion: v1
kind: Service
metadata: {name: caller, namespace: ns-a}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: caller-1, namespace: ns-a, labels: {kubernetes.io/service-name: caller}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints:
- {addresses: [127.0.1.1], targetRef: {kind: Pod, name: caller-0}}
- {addresses: [127.0.1.2], targetRef: {kind: Pod, name: caller-1}}
";

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

fn caller(pod: usize) -> NodeKey {
    NodeKey::new("ns-a", "caller", format!("caller-{pod}"))
}

fn told(pod: usize, second: i64, used: &[(&str, [u64; 3])]) -> Calls {
    let used = used.iter().map(|(name, [requests, inflight, active])| Used {
        stat_name: (*name).into(),
        requests: *requests,
        inflight: *inflight,
        active: *active,
    });
    Calls::of_used(caller(pod), used.collect(), at(second))
}

#[test]
fn the_last_use_of_each_destination_is_kept_as_long_as_its_pod_is_there() {
    let mut builder = Builder::new(Table::new()).with_calls();
    builder.apply(changes(CALLERS), at(0));
    assert_eq!(builder.wanted().called.len(), 1);
    builder.hear_calls(vec![told(0, 1, &[("out_a", [3, 0, 1]), ("out_b", [0, 0, 1])]), told(1, 1, &[])], at(1));
    builder.hear_calls(vec![told(0, 2, &[("out_b", [0, 1, 2])])], at(2));
    builder.hear_calls(vec![told(0, 3, &[("out_a", [0, 0, 0])])], at(3));
    let hosts = ["nobody".to_owned()].into();
    builder.hear_calls(vec![Calls::of_unknown(caller(0), hosts, at(9)), told(2, 9, &[("out_a", [1, 0, 0])])], at(9));
    let uses = builder.uses(&caller(0)).unwrap();
    assert_eq!(uses.told, Some(at(3)));
    let expected = [
        ("out_a".into(), Use { last: Some(at(1)), active: 0 }),
        ("out_b".into(), Use { last: Some(at(2)), active: 2 }),
    ];
    assert_eq!(uses.destinations, expected.into());
    assert!(builder.uses(&caller(1)).unwrap().destinations.is_empty());
    assert!(builder.uses(&caller(2)).is_none(), "there is no such pod");

    builder.apply(changes(&CALLERS.replace("caller-0}", "caller-9}")), at(10));
    assert!(builder.uses(&caller(0)).is_none() && builder.uses(&caller(1)).is_some());
    let service = changes(CALLERS).into_iter().filter_map(|change| match change {
        Change::Apply { key, .. } => Some(Change::Delete(key)),
        _ => None,
    });
    builder.apply(service.collect(), at(11));
    assert!(builder.uses(&caller(1)).is_none());
}

#[test]
fn what_was_called_least_lately_goes_first() {
    let mut uses = Uses::default();
    let many = |from: usize, second: i64| {
        let used = (from..from + MOST_DESTINATIONS / 2).map(|n| Used {
            stat_name: format!("out_{n:06}").into(),
            requests: 1,
            inflight: 0,
            active: 0,
        });
        Calls::of_used(caller(0), used.collect(), at(0) + SignedDuration::from_secs(second))
    };
    uses.take(many(0, 1));
    uses.take(many(MOST_DESTINATIONS, 2));
    uses.take(many(2 * MOST_DESTINATIONS, 3));
    assert_eq!(uses.destinations.len(), MOST_DESTINATIONS);
    assert!(uses.destinations.values().all(|held| held.last >= Some(at(2))));
    uses.take(many(3 * MOST_DESTINATIONS, 3));
    uses.take(many(4 * MOST_DESTINATIONS, 3));
    assert_eq!(uses.destinations.len(), MOST_DESTINATIONS, "also when all are as old");
}

#[test]
fn an_arm_is_used_under_either_name() {
    let mut builder = Builder::new(Table::new()).with_calls();
    builder.apply(changes(CALLERS), at(0));
    let cart: DestinationKey = DestinationKey { service: "shop/cart".parse().unwrap(), port: 80 };
    let used = |builder: &Builder| builder.uses(&caller(0)).unwrap().of(&cart);
    builder.hear_calls(vec![told(0, 1, &[("out_shop_cart_80", [3, 1, 2]), ("out_shop_cart_81", [1, 1, 1])])], at(1));
    assert_eq!(used(&builder), Some(Use { last: Some(at(1)), active: 2 }));
    builder.hear_calls(vec![told(0, 2, &[("arm_shop_cart_80", [1, 1, 4])])], at(2));
    assert_eq!(used(&builder), Some(Use { last: Some(at(2)), active: 6 }));
    builder.hear_calls(vec![told(0, 3, &[("out_shop_cart_80", [0, 0, 0])])], at(3));
    assert_eq!(used(&builder), Some(Use { last: Some(at(2)), active: 4 }));
}
