use std::{collections::BTreeMap, time::Duration};

use ::limiter::{policy::Key, quota::Rate};
use envoy_types::pb::{
    envoy::extensions::filters::network::http_connection_manager::v3::http_filter::ConfigType,
    google::protobuf::value::Kind,
};

use super::*;
use crate::{intent::LimitShape, xds::wire};

fn value(per_second: u64) -> Option<LimitValue> {
    let rate = Rate { milli_requests: per_second * 1_000, interval: Duration::from_secs(1) };
    Some(LimitValue { rate, burst: 1, lowest: rate })
}

fn limit(bucket: &str, per: Option<Key>, service_wide: bool) -> LimitShape {
    LimitShape { bucket: bucket.into(), per, service_wide, mode: Mode::Enforce }
}

fn path(path: PathMatch) -> Vec<RequestMatch> {
    vec![RequestMatch { path: Some(path), ..RequestMatch::default() }]
}

fn route(matches: Vec<RequestMatch>, limits: &[usize]) -> Route {
    Route { name: "r".into(), matches, limits: limits.to_vec(), priority: Default::default(), classes: Vec::new() }
}

/// A pod `p` and a pod `q` with a limit for all, one for `/few` and one by tenant there.
fn intent() -> ServiceIntent {
    let pod = PodIntent { values: vec![value(10), value(1), value(2)], ..PodIntent::default() };
    ServiceIntent {
        limits: vec![
            limit("all", None, true),
            limit("few", None, false),
            limit("tenant", Some(Key::Header("x-tenant".into())), false),
        ],
        routes: vec![route(path(PathMatch::Prefix("/few".into())), &[0, 1, 2]), route(Vec::new(), &[0])],
        pods: [("p".to_owned(), pod.clone()), ("q".to_owned(), pod)].into(),
    }
}

fn node(pod: &str) -> NodeKey {
    NodeKey::new("ns-a", "checkout", pod)
}

fn unpacked(resource: &Resource) -> Matcher {
    let wrapper = wire::Resource::decode(resource.encoded.clone()).expect("a resource");
    assert_eq!(wrapper.name, format!("limits/{}", resource.node));
    let config = TypedExtensionConfig::decode(wrapper.resource.expect("a value").value).expect("a configuration");
    assert_eq!(config.name, wrapper.name, "Envoy takes a configuration by this name");
    let inside = config.typed_config.expect("a filter");
    assert!(inside.type_url.ends_with("ExtensionWithMatcher"));
    ExtensionWithMatcher::decode(inside.value.as_slice()).expect("a filter").xds_matcher.expect("a tree")
}

/// What an action writes, and the headers that it reads.
fn written(action: &OnMatch) -> (BTreeMap<String, String>, Vec<(String, String)>) {
    let Some(on_match::OnMatch::Action(action)) = &action.on_match else { panic!("an action") };
    let config = action.typed_config.as_ref().expect("a filter");
    let execute = ExecuteFilterAction::decode(config.value.as_slice()).expect("an action");
    let chain = match (execute.typed_config, execute.filter_chain) {
        (Some(one), None) => vec![one],
        (None, Some(chain)) => chain.typed_config,
        other => panic!("one of both, not {other:?}"),
    };
    let bytes = |at: usize| chain.get(at).and_then(|filter| filter.typed_config.as_ref()).map(|any| any.value.clone());
    let set = SetMetadata::decode(bytes(0).expect("metadata").as_slice()).expect("metadata");
    let fields = set.metadata[0].value.clone().unwrap_or_default().fields.into_iter().map(|(key, value)| {
        let value = match value.kind {
            Some(Kind::StringValue(text)) => text,
            Some(Kind::NumberValue(number)) => number.to_string(),
            other => panic!("text or a number, not {other:?}"),
        };
        (key, value)
    });
    let rules = bytes(1).map(|bytes| HeaderToMetadata::decode(bytes.as_slice()).expect("rules").request_rules);
    let headers = rules.unwrap_or_default().into_iter();
    let headers = headers.map(|rule| (rule.header, rule.on_header_present.expect("a key").key));
    (fields.collect(), headers.collect())
}

#[test]
fn the_first_route_that_matches_writes_its_limits() {
    let matcher = unpacked(&build(&node("p"), Some(&intent())));
    let (last, headers) = written(&matcher.on_no_match.expect("the last route"));
    assert_eq!((last["bucket-service-0"].as_str(), last.len(), headers.len()), ("all", 5, 0));
    assert_eq!(last["retry-service"], "1", "what a refused request is told");
    let Some(MatcherType::MatcherList(list)) = matcher.matcher_type else { panic!("a list") };
    let [few] = list.matchers.as_slice() else { panic!("one route") };
    let (few, headers) = written(few.on_match.as_ref().expect("an action"));
    assert_eq!(few.len(), 13);
    assert_eq!((few["bucket-plain-0"].as_str(), few["bucket-header-0"].as_str()), ("few", "tenant"));
    assert_eq!(headers, [("x-tenant".to_owned(), "subject-header-0".to_owned())]);
}

#[test]
fn every_key_that_is_written_is_read_by_a_static_filter() {
    let read = filters().map(|filter| match filter.config_type {
        Some(ConfigType::TypedConfig(any)) => String::from_utf8_lossy(&any.value).into_owned(),
        other => panic!("a configuration, not {other:?}"),
    });
    let read = read.concat();
    let intent = intent();
    let (charged, beyond) = spread(&intent, &intent.routes[0], &intent.pods["p"].values);
    assert_eq!((charged.len(), beyond.len()), (3, 0));
    for Charged { suffix, header, .. } in charged {
        for key in ["class", "bucket", "cost"] {
            assert!(read.contains(&format!("{key}{suffix}")), "{key}{suffix}");
        }
        if let Some((_, key)) = header {
            assert!(read.contains(&key), "{key}");
        }
    }
}

#[test]
fn a_version_moves_with_what_the_pod_has_and_with_nothing_else() {
    let version = |pod: &str, intent: Option<&ServiceIntent>| {
        let resource = build(&node(pod), intent);
        assert_eq!(resource.version, version_of(&node(pod), intent));
        resource.version
    };
    let before = intent();
    let mut after = intent();
    after.pods.get_mut("q").expect("a pod").values[0] = value(11);
    assert_eq!(version("p", Some(&before)), version("p", Some(&after)));
    assert_ne!(version("q", Some(&before)), version("q", Some(&after)));
    after.pods.get_mut("q").expect("a pod").values[0] = value(10);
    after.pods.get_mut("q").expect("a pod").paused = true;
    assert_ne!(version("q", Some(&before)), version("q", Some(&after)));
    let paused = unpacked(&build(&node("q"), Some(&after)));
    assert!(written(&paused.on_no_match.expect("an action")).0.is_empty() && paused.matcher_type.is_none());
    // Of what is not known there is a configuration too: a proxy would wait for it.
    assert_eq!(version("r", Some(&before)), version("r", None));
    assert!(unpacked(&build(&node("r"), None)).matcher_type.is_none());
}

#[test]
fn a_large_regular_expression_is_left_out_with_its_own_limit_only() {
    let mut intent = intent();
    let large = path(PathMatch::Regex("/[a-z]{1,40}".into()));
    let both: Vec<_> = large.iter().chain(&intent.routes[0].matches).cloned().collect();
    intent.limits.push(limit("large", None, false));
    intent.routes.insert(0, route(large, &[0, 3]));
    intent.routes.insert(0, route(both, &[0, 1, 2, 3]));
    for pod in intent.pods.values_mut() {
        pod.values.push(value(1));
    }
    assert_eq!(left_out(&intent, &intent.pods["p"]), [("large", LeftOut::Regex)].into());
    let Some(MatcherType::MatcherList(list)) = unpacked(&build(&node("p"), Some(&intent))).matcher_type else {
        panic!("a list")
    };
    assert_eq!(list.matchers.len(), 1);
    intent.pods.get_mut("p").expect("a pod").values[3] = None;
    assert!(left_out(&intent, &intent.pods["p"]).is_empty(), "what is not in force is not missed");
}

#[test]
fn limits_beyond_the_slots_and_those_only_counted_are_left_out_and_said() {
    let mut intent = intent();
    for number in 0..5_usize {
        intent.routes[1].limits.push(intent.limits.len());
        intent.limits.push(limit(&format!("more-{number}"), None, true));
        for pod in intent.pods.values_mut() {
            pod.values.push(value(20 + number as u64));
        }
    }
    let expected = ["more-3", "more-4"].map(|bucket| (bucket, LeftOut::Slots));
    assert_eq!(left_out(&intent, &intent.pods["p"]), expected.into(), "the strictest stay");
    intent.limits[4].mode = Mode::Shadow;
    let expected = [("more-1", LeftOut::Shadow), ("more-4", LeftOut::Slots)];
    assert_eq!(left_out(&intent, &intent.pods["p"]), expected.into());
}
