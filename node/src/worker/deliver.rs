//! Published messages reach the subscribers among a worker's connections.

use farkeep_core::lsn::Lsn;
use farkeep_proto::resp::Encoder;

use super::{Worker, mark};
use crate::engine::Engine;

impl Worker {
    /// Writes what is under way to this worker's connections into their output. A message that speaks of what is not committed
    /// yet is held like a reply; if the node has ceased to lead since, it is not told at all.
    #[inline]
    pub(super) fn deliver(&mut self, engine: &mut Engine) {
        let deliveries = engine.pubsub.take(self.index);
        if deliveries.is_empty() {
            return;
        }
        for delivery in deliveries {
            let (client, message) = (&delivery.client, &delivery.message);
            let at = client.slot.load(std::sync::atomic::Ordering::Relaxed);
            let Some(connection) = self.connections.get_mut(at) else { continue };
            if connection.session.client.id != client.id || connection.dead || connection.close_after_flush {
                continue;
            }
            if message.until > Lsn::ZERO && message.reign != engine.reign() {
                continue;
            }
            connection.output.begin_turn();
            let was_held = connection.output.held_until();
            let start = connection.output.position();
            let resp3 = connection.session.resp3;
            message.push(delivery.pattern.as_deref(), &mut Encoder::new(connection.output.buffer(), resp3));
            if engine.must_hold(message.until) {
                connection.output.hold(start, message.until);
            }
            mark(&mut self.flushable, at);
            if self.over_output_limit(at) {
                // No message more: what is beyond the limit must not grow until the end of the turn.
                self.connections[at].dead = true;
                tracing::warn!(client = client.id, "closing a subscriber that reads too slowly");
            }
            self.note_held(at, was_held);
        }
    }
}
