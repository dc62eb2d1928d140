// A sum of events, 32 bits, the high half a cycle behind the low one.
module counter (
    input  logic        clk,
    input  logic        rst,
    input  logic [4:0]  amount,
    output logic [31:0] value
);
  logic [4:0] amount_1;
  logic carry;
  always_ff @(posedge clk) begin
    amount_1 <= amount;
    if (rst) begin
      amount_1 <= '0;
      carry <= 1'b0;
      value <= '0;
    end else begin
      {carry, value[15:0]} <= {1'b0, value[15:0]} + 17'(amount_1);
      value[31:16] <= value[31:16] + 16'(carry);
    end
  end
endmodule
