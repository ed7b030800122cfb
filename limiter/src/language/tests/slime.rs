//! What the project that had this idea computed wrongly (measured on its calculator): each must be right here.

use crate::{
    language::{Vocabulary, ast::Condition, parse_expression, parse_when},
    metric::{Metric, Word},
};

/// cpu.sum is 12, cpu 0.73, three pods.
fn lookup(metric: &Metric) -> Option<f64> {
    match metric.to_string().as_str() {
        "cpu.sum" => Some(12.0),
        "cpu" => Some(0.73),
        "pods" => Some(3.0),
        "memory" => Some(0.2),
        _ => None,
    }
}

fn holds(condition: &Condition) -> Option<bool> {
    use crate::language::ast::Comparison as C;
    Some(match condition {
        Condition::Literal(value) => *value,
        Condition::All(parts) => parts.iter().map(holds).collect::<Option<Vec<_>>>()?.into_iter().all(|part| part),
        Condition::Any(parts) => parts.iter().map(holds).collect::<Option<Vec<_>>>()?.into_iter().any(|part| part),
        Condition::Not(inner) => !holds(inner)?,
        Condition::Held { condition, .. } => holds(condition)?,
        Condition::Compare { comparison, left, right, .. } => {
            let ordering = left.evaluate(&lookup)?.partial_cmp(&right.evaluate(&lookup)?)?;
            match comparison {
                C::Less => ordering.is_lt(),
                C::LessOrEqual => ordering.is_le(),
                C::Greater => ordering.is_gt(),
                C::GreaterOrEqual => ordering.is_ge(),
                C::Equal => ordering.is_eq(),
                C::NotEqual => ordering.is_ne(),
            }
        }
    })
}

fn condition(text: &str) -> bool {
    let when = parse_when(text, &Vocabulary::default()).unwrap_or_else(|error| panic!("{text:?}: {error:?}"));
    holds(&when.condition).unwrap()
}

fn value(text: &str) -> Option<f64> {
    parse_expression(text, &Vocabulary::default())
        .unwrap_or_else(|error| panic!("{text:?}: {error:?}"))
        .0
        .evaluate(&lookup)
}

#[test]
fn computes_what_slime_got_wrong() {
    assert!(condition("{cpu.sum}<20"));
    assert!(condition("5<8"));
    assert!(condition("0.73>0.5"));
    assert!(condition("0.73*100>50"));
    assert!(condition("{cpu}*100>50"));
    for (text, expected) in [
        ("10-5-3", 2.0),
        ("100/2/5", 10.0),
        ("100-20+5", 85.0),
        ("8/4*2", 4.0),
        ("100/3*3", 100.0),
        ("100*0.5", 50.0),
        ("-5+3", -2.0),
        ("100/{pod}", 100.0 / 3.0),
        ("100 / {pod}", 100.0 / 3.0),
        ("1e3", 1000.0),
    ] {
        let found = value(text).unwrap();
        assert!((found - expected).abs() < 1e-9, "{text}: {found}");
    }
    assert!(condition("{pod} >= 1"));
    assert!(condition("{pod}==3"));
    assert!(condition("True"));
    assert!(condition("{cpu.sum}>10&&{pod}>2"));
}

#[test]
fn nothing_that_cannot_be_computed_is_a_number() {
    assert!(parse_expression("100/{missing}", &Vocabulary::default()).is_err());
    assert!(parse_expression("NaN", &Vocabulary::default()).is_err());
    assert_eq!(value("100/{inflight}"), None, "no value yet");
    assert_eq!(value("1/0"), None);
    assert_eq!(value("0/0"), None);
    assert_eq!(value("1e308*10"), None);
    assert_eq!(value("1/({pod}-3)"), None);
    let metric = Metric::plain(Word::Cpu);
    assert_eq!(crate::language::ast::Expression::Metric(metric).evaluate(&|_| Some(f64::NAN)), None);
}
