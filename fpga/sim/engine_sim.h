// The simulated engine as a plain C interface: the Verilated RTL, a memory on its AXI4 bus
// and a master on its AXI4-Lite registers. One clock; a cycle is a rising edge.
//
// Not thread-safe: one caller a simulation. Functions that take a simulation do not keep
// pointers of the caller; engine_memory() stays valid until engine_destroy().

#ifndef ENGINE_SIM_H
#define ENGINE_SIM_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct engine engine;

// A simulation with `memory_bytes` of memory at bus address 0, zeroed, and the engine out of
// reset. NULL where memory cannot be had. Reads beyond the memory are answered with DECERR.
engine *engine_create(uint64_t memory_bytes);
void engine_destroy(engine *sim);

// The memory, for the caller to read and write between calls.
uint8_t *engine_memory(engine *sim);

// One AXI4-Lite transaction each, which takes cycles. Return the response: 0 OKAY, 2 SLVERR,
// 3 DECERR, or -1 where the engine did not answer within 1,000 cycles.
int engine_mmio_write(engine *sim, uint32_t offset, uint32_t value);
int engine_mmio_read(engine *sim, uint32_t offset, uint32_t *value);

// Run `cycles`.
void engine_step(engine *sim, uint64_t cycles);
// Run until the interrupt is high: 1; or until `limit` cycles have passed: 0.
int engine_run_until_irq(engine *sim, uint64_t limit);

// Hold the engine in hardware reset for `cycles` (at least 1); open transactions are dropped.
void engine_reset(engine *sim, uint32_t cycles);

// Cycles from a read or write request to its first answer, each drawn from smallest..largest
// (1 to 200; equal for a fixed one). After engine_create: 32, fixed.
void engine_set_latency(engine *sim, uint32_t smallest, uint32_t largest, uint64_t seed);
// Each handshake of the bus that the memory answers is withheld in `percent` of the cycles
// (0 to 99). After engine_create: 0.
void engine_set_backpressure(engine *sim, uint32_t percent, uint64_t seed);
// Bursts of each direction that the bus has accepted and not answered yet, at most. After
// engine_create: 8.
void engine_set_outstanding(engine *sim, uint32_t bursts);

// Beats read and bursts written that touch [begin, end) of the bus's addresses are answered with
// `response` (0 OKAY: no fault, 2 SLVERR, 3 DECERR); with -1 bursts that touch it are not answered
// at all: the bus hangs. One range.
void engine_set_fault(engine *sim, uint64_t begin, uint64_t end, int response);

// Cycles since creation.
uint64_t engine_cycles(const engine *sim);
// Breaches of the AXI handshake rules by the engine so far, 0 if all is well; the first of
// them in words (empty if none). They are checked in every cycle.
uint64_t engine_violations(const engine *sim, const char **first);

// Write the coverage counters to a file; does nothing in a build without coverage.
void engine_write_coverage(engine *sim, const char *path);

#ifdef __cplusplus
}
#endif

#endif
