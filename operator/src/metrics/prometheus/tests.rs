use limiter::metric::Word;

use super::*;
use crate::intent::ServiceKey;

fn query(service: &str, word: Word, promql: Option<&str>, pods: &[&str]) -> Query {
    Query {
        service: ServiceKey { namespace: "shop".to_owned(), name: service.to_owned() },
        word,
        promql: promql.map(str::to_owned),
        pods: pods.iter().map(|pod| (*pod).to_owned()).collect(),
        amounts: std::collections::BTreeMap::new(),
    }
}

#[test]
fn each_text_is_asked_once() {
    let named = |name: &str| Word::Named(name.to_owned());
    let mut queries = Vec::new();
    for n in 0..500 {
        let (service, pod) = (format!("s{n}"), format!("s{n}-0"));
        queries.push(query(&service, Word::Cpu, None, &[&pod]));
        queries.push(query(&service, Word::Latency(99), None, &[&pod]));
        queries.push(query(&service, named("a#q"), Some("sum by (pod) (q{namespace=\"$namespace\"})"), &[&pod]));
        queries.push(query(&service, named("b#q"), Some("sum by (pod) (q{namespace=\"$namespace\"})"), &[&pod]));
        queries.push(query(&service, named("a#own"), Some("sum(q{app=\"$service\"})"), &[&pod]));
    }
    let plan = plan(&queries, Duration::from_secs(90));
    // cpu, latency and the shared query once for the namespace, the query of its own for each of 500.
    assert_eq!(plan.len(), 3 + 500);
    assert_eq!(plan.values().map(Vec::len).sum::<usize>(), 2500);
}

#[test]
fn the_samples_of_a_plain_selector_must_be_young() {
    let word = Word::Named("a#q".to_owned());
    let text = |promql: &str| {
        plan(&[query("cart", word.clone(), Some(promql), &["cart-0"])], Duration::from_secs(90))
            .into_keys()
            .next()
            .unwrap()
    };
    assert_eq!(&*text("q{app=\"$service\"}"), "q{app=\"cart\"} and timestamp(q{app=\"cart\"}) > time() - 90");
    assert_eq!(&*text("sum(q)"), "sum(q)");
}
