use proptest::{collection::vec, prelude::*};
use serde_json::{Value, json};

use super::*;
use crate::{lazy::explain, problem::Reason};

fn read(spec: Value) -> (Option<Lazy>, Vec<Problem>) {
    let metadata = json!({"name": "shop", "namespace": "shop", "generation": 3});
    lazy(&serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap())
}

#[track_caller]
fn refuses(spec: Value, field: &str, message: &str, help: &str) {
    let (_, problems) = read(spec.clone());
    let found: Vec<_> = problems.iter().map(|problem| (problem.reason, problem.field.as_str())).collect();
    assert_eq!(found, [(Reason::Invalid, field)], "{spec}\n{problems:?}");
    assert!(problems[0].message.contains(message), "{:?} does not contain {message:?}", problems[0].message);
    let said = problems[0].help.as_deref().unwrap_or_default();
    assert!(said.contains(help), "{said:?} does not contain {help:?}");
}

fn service(namespace: &str, name: &str) -> Callee {
    Callee::Service { namespace: namespace.to_owned(), name: name.to_owned(), port: None }
}

#[test]
fn reads_the_designs_example() {
    let (lazy, problems) = read(json!({
        "workloadSelector": {"matchLabels": {"app": "cart"}},
        "load": "OnDemand",
        "always": ["payments.billing", "*.catalog", "api.stripe.example"],
        "never": ["Cart"],
        "unknownHosts": "Passthrough",
        "forgetAfter": "1h30m",
        "hold": "30s",
        "prewarm": true,
    }));
    assert_eq!(problems, []);
    let lazy = lazy.unwrap();
    let expected = Lazy {
        key: LazyKey { namespace: "shop".to_owned(), name: "shop".to_owned() },
        generation: 3,
        created: None,
        selector: Some([("app".to_owned(), "cart".to_owned())].into()),
        load: Load::OnDemand,
        always: vec![
            service("billing", "payments"),
            Callee::Namespace("catalog".to_owned()),
            Callee::Domain { name: "api.stripe.example".to_owned(), port: None },
        ],
        never: vec![service("shop", "cart")],
        unknown_hosts: UnknownHosts::Passthrough,
        forget_after: Some(Duration::from_secs(5400)),
        hold: Duration::from_secs(30),
        prewarm: true,
    };
    assert_eq!(lazy, expected);
    assert_eq!(
        explain(&lazy),
        [
            "Holds for the pods of namespace shop that have the labels app=cart.",
            "Their proxies start without any service; the first call to one is held until it is there, at most 30s.",
            "There from the start and never forgotten: Service payments.billing, every Service of namespace catalog, the host \
             api.stripe.example.",
            "Never there, whatever else says so: Service cart.shop.",
            "Calls to hosts that nothing is known of go to the host that they name, by DNS or their original destination.",
            "What was not called for 90m is forgotten, and fetched again at the next call.",
            "The pods of a Service share what they call: a proxy that starts has it at once.",
        ]
    );
}

#[test]
fn defaults_are_those_of_the_schema() {
    let (lazy, problems) = read(json!({}));
    assert_eq!(problems, []);
    let lazy = lazy.unwrap();
    assert_eq!((lazy.hold, lazy.forget_after), (crate::lazy::DEFAULT_HOLD, Some(crate::lazy::DEFAULT_FORGET_AFTER)));
    assert_eq!((lazy.load, lazy.unknown_hosts, lazy.selector), (Load::OnDemand, UnknownHosts::Refuse, None));
}

#[test]
fn a_fallback_is_one_of_three() {
    let fallback = |fallback: Value| read(json!({"load": "Learned", "fallback": fallback})).0.map(|lazy| lazy.load);
    let service =
        |namespace: &str| Fallback::Service { namespace: namespace.to_owned(), name: "gateway".to_owned(), port: 80 };
    assert_eq!(read(json!({"load": "Learned"})).0.unwrap().load, Load::Learned(Fallback::Passthrough));
    assert_eq!(fallback(json!({})), Some(Load::Learned(Fallback::Passthrough)));
    assert_eq!(fallback(json!({"type": "Refuse"})), Some(Load::Learned(Fallback::Refuse)));
    let of = |more: Value| {
        let mut it = json!({"name": "gateway", "port": 80});
        it.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"type": "Service", "service": it})
    };
    assert_eq!(fallback(of(json!({}))), Some(Load::Learned(service("shop"))));
    assert_eq!(fallback(of(json!({"namespace": "edge"}))), Some(Load::Learned(service("edge"))));
    let learned = |fallback: Value| json!({"load": "Learned", "fallback": fallback});
    refuses(learned(of(json!({"port": 0}))), "spec.fallback.service.port", "from 1 to 65535, found 0", "80");
    refuses(learned(of(json!({"port": 70_000}))), "spec.fallback.service.port", "found 70000", "80");
    refuses(learned(of(json!({"name": "a.b"}))), "spec.fallback.service.name", "\"a.b\" is no name", "");
    refuses(learned(of(json!({"namespace": ""}))), "spec.fallback.service.namespace", "\"\" is no name", "");
    refuses(learned(json!({"type": "Service"})), "spec.fallback.service", "needs the Service", "port: 80");
    let refused = json!({"type": "Refuse", "service": {"name": "a", "port": 1}});
    refuses(learned(refused), "spec.fallback.service", "no meaning with type Refuse", "type: Service");
    refuses(json!({"fallback": {}}), "spec.fallback", "OnDemand holds them", "`load: Learned`");
    refuses(
        json!({"load": "Declared", "fallback": {}}),
        "spec.fallback",
        "Declared has nothing else",
        "`load: Learned`",
    );
}

#[test]
fn every_list_is_checked_entry_by_entry() {
    refuses(json!({"always": ["a", "https://x.y.z"]}), "spec.always[1]", "is a URL", "drop `https://`");
    refuses(json!({"never": ["a:0"]}), "spec.never[0]", "found \"0\"", "a:8080");
    refuses(
        json!({"always": ["a", "b", "A.shop.svc"]}),
        "spec.always[2]",
        "is a.shop, which stands in spec.always[0]",
        "remove",
    );
    refuses(json!({"always": ["b", "a"], "never": ["a.shop"]}), "spec.never[0]", "spec.always[1], too", "remove one");
    let many: Vec<String> = (0..513).map(|number| format!("a{number}")).collect();
    refuses(json!({"always": many}), "spec.always", "at most 512 entries, found 513", "`*.shop`");
    let (_, problems) = read(json!({"always": ["", "*a", "b/"], "never": ["é"], "hold": "x", "forgetAfter": ""}));
    assert_eq!(problems.len(), 6, "all at once: {problems:?}");
    assert_eq!(read(json!({"always": ["*"], "never": ["a"]})).1, []);
}

#[test]
fn times_are_within_bounds() {
    for (text, seconds) in
        [("24h", Some(86_400)), ("0s", None), ("0h0m", None), ("Never", None), ("10s", Some(10)), ("7d", Some(604_800))]
    {
        let (lazy, problems) = read(json!({"forgetAfter": text}));
        assert_eq!(problems, [], "{text}");
        assert_eq!(lazy.unwrap().forget_after, seconds.map(Duration::from_secs), "{text}");
    }
    refuses(json!({"forgetAfter": "9.999s"}), "spec.forgetAfter", "at least 10s", "`Never`");
    refuses(json!({"forgetAfter": "nevr"}), "spec.forgetAfter", "found \"nevr\"", "did you mean `Never`?");
    refuses(json!({"forgetAfter": "366d"}), "spec.forgetAfter", "at most 365d", "24h");
    for text in ["", "24", "h", "-1h", "1 h", "1.h", ".5h", "1.2.3h", "1y", "1e3s", "1hé"] {
        refuses(json!({"forgetAfter": text}), "spec.forgetAfter", "expected a length of time", "");
        refuses(json!({"hold": text}), "spec.hold", "expected a length of time", "`5m`");
    }
    refuses(json!({"hold": "99ms"}), "spec.hold", "from 100ms to 1h", "Learned");
    refuses(json!({"hold": "61m"}), "spec.hold", "from 100ms to 1h", "Learned");
    assert_eq!(read(json!({"hold": "1.5s"})).0.unwrap().hold, Duration::from_millis(1500));
}

#[test]
fn a_selector_needs_labels_that_there_can_be() {
    let with = |labels: Value| json!({"workloadSelector": {"matchLabels": labels}});
    refuses(with(json!({})), "spec.workloadSelector.matchLabels", "every pod", "leave `workloadSelector` out");
    refuses(with(json!({"a b": "c"})), "spec.workloadSelector.matchLabels[a b]", "no object can have", "");
}

#[test]
fn what_is_nowhere_is_said_in_words() {
    let first = |spec: Value| explain(&read(spec).0.unwrap())[1].clone();
    assert_eq!(first(json!({"load": "Declared"})), "Their proxies have no service, and load none.");
    let declared = first(json!({"load": "Declared", "always": ["a:1", "*", "*.b.c", "*.d"]}));
    assert_eq!(
        declared,
        "Their proxies have these and load nothing else: Service a.shop, port 1, every Service, every host below b.c, every \
         Service of namespace d."
    );
    let fallback = json!({"type": "Service", "service": {"name": "g", "port": 80}});
    let learned = first(json!({"load": "Learned", "fallback": fallback}));
    assert!(learned.contains("First calls go to Service g.shop, port 80; what they name"), "{learned}");
}

proptest! {
    #[test]
    fn never_panics(lists in vec(vec(".{0,12}", 0..4), 2), times in vec(".{0,8}", 2), label in ".{0,6}") {
        let spec = json!({
            "always": lists[0], "never": lists[1], "forgetAfter": times[0], "hold": times[1],
            "workloadSelector": {"matchLabels": {label.clone(): label}},
        });
        let (lazy, problems) = read(spec);
        prop_assert!(lazy.is_some() || !problems.is_empty());
    }

    #[test]
    fn what_a_time_says_is_what_is_read(parts in vec((0_u32..1000, prop_oneof![Just(("ms", 1_u64)), Just(("s", 1000)), Just(("m", 60_000)), Just(("h", 3_600_000))]), 1..4)) {
        let text: String = parts.iter().map(|(number, (unit, _))| format!("{number}{unit}")).collect();
        let milliseconds: u64 = parts.iter().map(|(number, (_, factor))| u64::from(*number) * factor).sum();
        prop_assert_eq!(duration(&text), Some(Duration::from_millis(milliseconds)));
    }
}
