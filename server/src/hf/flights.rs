//! One question to upstream however many ask it: who comes while it is under way waits for the same answer.
//!
//! A question goes on when those who asked have gone: its answer is for the next one. Knows nothing of what is asked.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::{BoxFuture, FutureExt as _, Shared};

type Flight<V> = Shared<BoxFuture<'static, Option<V>>>;
type UnderWay<K, V> = Arc<Mutex<HashMap<K, Flight<V>>>>;

/// Questions under way. Clones are the same.
pub(crate) struct Flights<K, V>(UnderWay<K, V>);

impl<K, V> Clone for Flights<K, V> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K, V> Default for Flights<K, V> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K, V> fmt::Debug for Flights<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Flights({})", lock(&self.0).len())
    }
}

fn lock<K, V>(flights: &UnderWay<K, V>) -> MutexGuard<'_, HashMap<K, Flight<V>>> {
    // Whole between any two statements.
    flights.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes a question off the list, however it ended.
struct Landing<K: Eq + Hash, V>(UnderWay<K, V>, K);

impl<K: Eq + Hash, V> Drop for Landing<K, V> {
    fn drop(&mut self) {
        lock(&self.0).remove(&self.1);
    }
}

impl<K, V> Flights<K, V>
where
    K: Eq + Hash + Clone + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// The answer to `key`: of the question under way, or of `ask`. `None` if it panicked.
    ///
    /// # Cancel safety
    /// Cancel safe: the question goes on.
    pub(crate) async fn run<F>(&self, key: K, ask: impl FnOnce() -> F) -> Option<V>
    where
        F: Future<Output = V> + Send + 'static,
    {
        let flight = {
            let mut flights = lock(&self.0);
            if let Some(flight) = flights.get(&key) {
                flight.clone()
            } else {
                let landing = Landing(self.0.clone(), key.clone());
                let asked = ask();
                let task = tokio::spawn(async move {
                    let _landing = landing;
                    asked.await
                });
                let flight = async move { task.await.ok() }.boxed().shared();
                flights.insert(key, flight.clone());
                flight
            }
        };
        flight.await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn many_who_ask_at_once_cost_one_question_and_the_next_one_another() {
        let (flights, asked) = (Flights::default(), Arc::new(AtomicU32::new(0)));
        let gate = Arc::new(Semaphore::new(0));
        let ask = || {
            let (asked, gate) = (asked.clone(), gate.clone());
            flights.run("key", move || async move {
                let _turn = gate.acquire().await.expect("open");
                asked.fetch_add(1, Ordering::SeqCst)
            })
        };
        let (mut first, mut others) = (Box::pin(ask()), Vec::new());
        assert!(first.as_mut().now_or_never().is_none());
        for _ in 0..20 {
            let mut other = Box::pin(ask());
            assert!(other.as_mut().now_or_never().is_none());
            others.push(other);
        }
        // Who asked first goes; the others are answered all the same.
        drop(first);
        gate.add_permits(100);
        for other in others {
            assert_eq!(other.await, Some(0));
        }
        assert_eq!(ask().await, Some(1));
    }

    #[tokio::test]
    async fn a_question_that_panics_does_not_stay_under_way() {
        let flights: Flights<u8, u8> = Flights::default();
        let lost = flights.run(1, || async { panic!("on purpose") }).await;
        assert_eq!(lost, None);
        assert_eq!(flights.run(1, || async { 2 }).await, Some(2));
    }
}
