// `late` where `waiting` has been high for `limit` cycles.
module watchdog (
    input  logic        clk,
    input  logic        rst,
    input  logic        waiting,
    input  logic [31:0] limit,
    output logic        late
);
  logic [31:0] waited;
  logic carry, low_equal, waiting_1;
  always_ff @(posedge clk) begin
    waiting_1 <= waiting && !rst;
    if (rst || !waiting_1) begin
      waited <= '0;
      carry <= 1'b0;
    end else begin
      {carry, waited[15:0]} <= {1'b0, waited[15:0]} + 17'd1;
      waited[31:16] <= waited[31:16] + 16'(carry);
    end
    // The high half is a cycle behind the low one.
    low_equal <= waited[15:0] == limit[15:0] && waiting_1;
    late <= low_equal && waited[31:16] == limit[31:16] && waiting_1 && !rst;
  end
endmodule
