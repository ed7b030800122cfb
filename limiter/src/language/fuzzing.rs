//! What must hold for any text. The bodies of the property tests and of the fuzz targets; they panic when it does not.

use crate::language::{Vocabulary, parse_adapt, parse_duration, parse_expression, parse_limit, parse_when};

/// Reading any text ends, without a panic, and places every mistake on character boundaries within the text.
pub fn survives(text: &str) {
    let vocabulary = Vocabulary::default();
    let errors = [
        parse_when(text, &vocabulary).err(),
        parse_limit(text).err(),
        parse_adapt(text, &vocabulary).err(),
        parse_expression(text, &vocabulary).err(),
        parse_duration(text).err(),
    ];
    for error in errors.into_iter().flatten() {
        assert!(text.get(error.start..error.end).is_some(), "{error:?} is not in {text:?}");
        let problem = error.into_problem("field", text);
        assert!(problem.place.as_ref().is_some_and(|place| place.column() >= 1));
        assert!(!problem.to_string().is_empty());
    }
}

/// A sentence that can be read is written so that reading it again gives the same tree, when the writing is a sentence:
/// units inside products are not kept, and what they were compared with may then no longer fit.
pub fn round_trips(text: &str) {
    let vocabulary = Vocabulary::default();
    if let Ok(when) = parse_when(text, &vocabulary) {
        let written = when.condition.to_string();
        if let Ok(again) = parse_when(&written, &vocabulary) {
            assert_eq!(again.condition, when.condition, "{text:?} was written {written:?}");
        }
    }
    if let Ok(limit) = parse_limit(text) {
        let written = limit.to_string();
        let again = parse_limit(&written).expect("a limit is written as a sentence");
        assert_eq!(
            (again.amount, again.interval, again.scope, again.per),
            (limit.amount, limit.interval, limit.scope, limit.per),
            "{text:?} was written {written:?}"
        );
    }
    if let Ok(adapt) = parse_adapt(text, &vocabulary) {
        let written = adapt.to_string();
        let again = parse_adapt(&written, &vocabulary).expect("a goal is written as a sentence");
        assert_eq!(
            (again.goals, again.floor, again.ceiling, again.interval, again.scope, again.pace),
            (adapt.goals, adapt.floor, adapt.ceiling, adapt.interval, adapt.scope, adapt.pace),
            "{text:?} was written {written:?}"
        );
    }
}
