// A first-word-fall-through FIFO of one clock. `out` is a register behind the memory, so that
// the memory may be a block RAM; `count` includes it.
module fifo #(
    parameter int unsigned WIDTH = 8,
    parameter int unsigned DEPTH = 16  // a power of two
) (
    input  logic                   clk,
    input  logic                   rst,
    input  logic                   push,   // ignored where full: the writer counts
    input  logic [WIDTH-1:0]       in,
    output logic                   valid,
    output logic [WIDTH-1:0]       out,
    input  logic                   pop,    // ignored where not valid
    output logic [$clog2(DEPTH):0] count
);
  localparam int unsigned BITS = $clog2(DEPTH);

  logic [WIDTH-1:0] memory[0:DEPTH-1];
  logic [BITS-1:0] head, tail;
  logic [BITS:0] stored;  // in the memory
  logic write, read;

  assign write = push && stored != (BITS + 1)'(DEPTH);
  assign read  = stored != '0 && (!valid || pop);
  assign count = stored + (BITS + 1)'(valid);

  always_ff @(posedge clk) begin
    if (write) memory[tail] <= in;
    if (read) out <= memory[head];
  end

  always_ff @(posedge clk) begin
    if (rst) begin
      head   <= '0;
      tail   <= '0;
      stored <= '0;
      valid  <= 1'b0;
    end else begin
      if (write) tail <= tail + 1'b1;
      if (read) head <= head + 1'b1;
      stored <= stored + (BITS + 1)'(write) - (BITS + 1)'(read);
      valid  <= read || (valid && !pop);
    end
  end
endmodule
