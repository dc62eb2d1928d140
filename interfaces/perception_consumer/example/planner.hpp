#include <perception_consumer/consumer.hpp>

using namespace perception_consumer;

// To be called with each message of a protected topic, and every 50 ms with none (a size of 0).
template <class Planner>
Verdict cycle(Consumer& topic, const void* message, std::size_t size, Planner& planner) {
    const Verdict verdict = size != 0 ? topic.check(message, size) : topic.check();
    if (verdict.usable()) {
        planner.take(verdict.message, verdict.size);  // serialized, of the plain topic's type
    }
    planner.be_in(verdict.mode);  // UNSAFE: do not rely on any object; stop safely
    return verdict;
}
