//! Waiting for a condition with a deadline: the only way tests wait.

use std::{fmt::Display, panic::Location, time::Duration};

use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};

const BETWEEN_LOOKS: Duration = Duration::from_millis(10);

/// Asks `condition` again and again until it gives a value. Its error is the state that was seen instead; the last one is
/// in the panic's message, so that a failure says what was there and not only what was missing.
///
/// A look that hangs is cut off at the deadline too.
///
/// # Panics
///
/// When the deadline passes.
#[track_caller]
pub fn eventually<T, S, Look>(
    deadline: Duration,
    what: &str,
    mut condition: impl FnMut() -> Look,
) -> impl Future<Output = T>
where
    S: Display,
    Look: Future<Output = Result<T, S>>,
{
    let caller = Location::caller();
    async move {
        let end = Instant::now() + deadline;
        let mut looks = interval(BETWEEN_LOOKS);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last = "nothing: not one look came back".to_owned();
        loop {
            looks.tick().await;
            match timeout_at(end, condition()).await {
                Ok(Ok(value)) => return value,
                Ok(Err(seen)) => last = seen.to_string(),
                Err(_) => panic!("{caller}: {what}: not within {deadline:?} (the last look hung); last seen: {last}"),
            }
            assert!(Instant::now() < end, "{caller}: {what}: not within {deadline:?}; last seen: {last}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::eventually;

    const SHORT: Duration = Duration::from_millis(60);

    fn message(error: tokio::task::JoinError) -> String {
        *error.into_panic().downcast::<String>().unwrap()
    }

    #[tokio::test]
    async fn gives_the_value_once_the_condition_holds() {
        let mut looks = 0;
        let value = eventually(Duration::from_secs(5), "three looks", || {
            looks += 1;
            std::future::ready(if looks == 3 { Ok(looks) } else { Err(looks) })
        })
        .await;
        assert_eq!(value, 3);
    }

    #[tokio::test]
    async fn says_what_was_seen_when_the_deadline_passes() {
        let waiting = tokio::spawn(eventually(SHORT, "the limit", || std::future::ready(Err::<(), _>("limit is 7"))));
        let message = message(waiting.await.unwrap_err());
        assert!(message.contains("wait.rs") && message.contains("the limit: not within 60ms"), "{message}");
        assert!(message.ends_with("last seen: limit is 7"), "{message}");
    }

    #[tokio::test]
    async fn cuts_off_a_look_that_hangs() {
        let waiting = tokio::spawn(eventually(SHORT, "an answer", std::future::pending::<Result<(), String>>));
        assert!(message(waiting.await.unwrap_err()).contains("the last look hung"));
    }
}
