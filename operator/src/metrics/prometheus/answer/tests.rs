use serde_json::{Value, json};

use super::{super::words::SERVICE, *};

fn data<'a>(kind: &str, result: &'a str) -> Data<'a> {
    let data = match kind {
        "scalar" => serde_json::from_str(result).map(Data::Scalar),
        "vector" => serde_json::from_str(result).map(Data::Vector),
        _ => Ok(Data::Matrix),
    };
    data.expect("as Prometheus writes it")
}

fn now() -> Timestamp {
    Timestamp::from_millisecond(1_700_000_000_500).expect("in range")
}

/// The values by pod, and the trouble, of a service `cart` with the pods `cart-0` and `cart-1`.
fn read(kind: &str, result: Value, by: Option<By>) -> (Vec<(Option<String>, f64)>, String) {
    let asker = Asker {
        amounts: BTreeMap::new(),
        service: ServiceKey { namespace: "shop".to_owned(), name: "cart".to_owned() },
        word: Word::Named("q".to_owned()),
        pods: vec!["cart-0".to_owned(), "cart-1".to_owned()],
        by,
    };
    let text = result.to_string();
    let answer = match Answer::new(data(kind, &text), 1500, now()) {
        Ok(answer) => answer,
        Err(trouble) => return (Vec::new(), trouble),
    };
    let Reading { samples, trouble } = answer.read(&asker);
    let value = |sample: PodSample| match sample.measure {
        Measure::Number(word, value) => {
            assert_eq!((word, sample.source, sample.fresh_for_ms), (asker.word.clone(), Source::Prometheus, 1500));
            (sample.pod, value)
        }
        other => panic!("{other:?}"),
    };
    (samples.into_iter().map(value).collect(), trouble.unwrap_or_default())
}

fn series(labels: Value, value: &str) -> Value {
    json!({"metric": labels, "value": [1_700_000_000.25, value]})
}

fn pod(name: &str, value: &str) -> Value {
    series(json!({"pod": name}), value)
}

#[test]
fn pods_and_whole_services_get_their_values() {
    let of = |pod: &str, value| (Some(pod.to_owned()), value);
    let both = vec![of("cart-0", 1.0), of("cart-1", 2.5)];
    let pods = json!([pod("cart-1", "2.5"), pod("other-0", "9"), pod("cart-0", "1")]);
    assert_eq!(read("vector", pods.clone(), None), (both.clone(), String::new()));
    assert_eq!(read("vector", pods, Some(By::Pod)), (both, String::new()));
    assert_eq!(read("vector", json!([series(json!({}), "7")]), None), (vec![(None, 7.0)], String::new()));
    assert_eq!(read("scalar", json!([1_700_000_000.25, "3"]), None), (vec![(None, 3.0)], String::new()));
    let services = json!([series(json!({SERVICE: "cart"}), "4"), series(json!({SERVICE: "other"}), "5")]);
    assert_eq!(read("vector", services, Some(By::Service)), (vec![(None, 4.0)], String::new()));
}

#[test]
fn what_is_no_value_is_dropped_and_said() {
    for (kind, result, by, values, words) in [
        ("vector", json!([]), None, 0, "no series"),
        ("vector", json!([]), Some(By::Pod), 0, "no series"),
        (
            "vector",
            json!([pod("cart-0", "NaN"), pod("cart-1", "1")]),
            None,
            1,
            "NaN for pod cart-0, which is no number (as 0/0",
        ),
        ("scalar", json!([1_700_000_000.25, "+Inf"]), None, 0, "the query gives inf, which"),
        ("vector", json!([pod("other-0", "1")]), None, 0, "none of the 1 series is of a ready pod"),
        ("vector", json!([series(json!({SERVICE: "other"}), "1")]), Some(By::Service), 0, "speaks of this service"),
        (
            "vector",
            json!([series(json!({"a": "1"}), "1"), series(json!({"a": "2"}), "1")]),
            None,
            0,
            "2 series without a label `pod`",
        ),
        ("vector", json!([pod("cart-0", "1"), series(json!({}), "1")]), None, 0, "1 of 2 series have no label `pod`"),
        (
            "vector",
            json!([series(json!({"pod": "cart-0", "a": "1"}), "1"), pod("cart-0", "1"), pod("cart-1", "1")]),
            None,
            1,
            "2 series for pod cart-0",
        ),
        ("matrix", json!([{"metric": {}, "values": [[1_700_000_000, "1"]]}]), None, 0, "ranges, not values"),
        ("vector", json!([{"metric": {}, "value": [1_699_999_900, "1"]}]), None, 1, "evaluated 100 s ago"),
        ("vector", json!([{"metric": {}, "value": [-1e300, "1"]}]), None, 1, "a clock is wrong"),
    ] {
        let (found, trouble) = read(kind, result.clone(), by);
        assert_eq!(found.len(), values, "{result}");
        assert!(trouble.contains(words), "{result}: {trouble}");
    }
}

#[test]
fn a_flood_of_series_is_refused_by_number() {
    let many = |count: usize| Value::Array((0..count).map(|n| series(json!({"n": n.to_string()}), "1")).collect());
    assert!(Answer::new(data("vector", &many(MAX_SERIES).to_string()), 1, now()).is_ok());
    let refused = Answer::new(data("vector", &many(MAX_SERIES + 1).to_string()), 1, now()).expect_err("it is too much");
    assert!(refused.contains("10001 series, more than 10000"), "{refused}");
}

#[test]
fn a_clock_that_is_ahead_makes_nothing_fresh_for_longer() {
    let ahead = |seconds: f64| {
        let asker = Asker {
            amounts: BTreeMap::new(),
            service: ServiceKey { namespace: "shop".to_owned(), name: "cart".to_owned() },
            word: Word::Named("q".to_owned()),
            pods: Vec::new(),
            by: None,
        };
        let text = json!([1_700_000_000.5 + seconds, "3"]).to_string();
        let reading = Answer::new(data("scalar", &text), 1500, now()).expect("a scalar").read(&asker);
        (reading.samples[0].at, reading.trouble.unwrap_or_default())
    };
    assert_eq!(ahead(1.0), (now(), String::new()));
    let (at, trouble) = ahead(3600.0);
    assert_eq!(at, now());
    assert!(trouble.contains("3600 s from now"), "{trouble}");
}
