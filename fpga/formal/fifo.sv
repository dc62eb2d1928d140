// The FIFO: what is pushed n-th comes out n-th, and `count` is what is in it.
module fifo_properties (
    input logic       clk,
    input logic       rst,
    input logic       push,
    input logic [3:0] in,
    input logic       pop
);
  localparam int unsigned DEPTH = 4;

  logic valid;
  logic [3:0] out;
  logic [2:0] count;
  fifo #(.WIDTH(4), .DEPTH(DEPTH)) dut (.clk, .rst, .push, .in, .valid, .out, .pop, .count);

  (* anyconst *) logic [3:0] watched;  // any one of what is pushed, and of every sixteenth after it
  logic [3:0] pushed, popped;
  logic [3:0] expected;
  logic accepted, taken;
  assign accepted = push && count - 3'(valid) != 3'(DEPTH);
  assign taken = pop && valid;

  logic begun, waited;
  initial begun = 1'b0;
  always_ff @(posedge clk) begin
    begun <= 1'b1;
    if (!begun) assume (rst);
    if (rst) begin
      pushed <= '0;
      popped <= '0;
      waited <= 1'b0;
    end else if (begun) begin
      pushed <= pushed + 4'(accepted);
      popped <= popped + 4'(taken);
      waited <= count != '0 && !valid;
      if (accepted && pushed == watched) expected <= in;
      if (taken && popped == watched) assert (out == expected);
      assert (4'(count) == pushed - popped);
      assert (count <= 3'(DEPTH + 1));
      assert (!valid || count != '0);
      assert (!waited || valid);
    end
  end
endmodule
