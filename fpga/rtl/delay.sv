// A value `CYCLES` cycles later. RESET says that it starts as zero (for valid bits); without it
// the registers have no reset and become shift registers of the fabric.
module delay #(
    parameter int unsigned WIDTH = 1,
    parameter int unsigned CYCLES = 1,
    parameter bit RESET = 0
) (
    /* verilator lint_off UNUSEDSIGNAL */
    input  logic             clk,
    input  logic             rst,
    /* verilator lint_on UNUSEDSIGNAL */
    input  logic [WIDTH-1:0] in,
    output logic [WIDTH-1:0] out
);
  genvar i;
  generate
    for (i = 0; i < CYCLES; i = i + 1) begin : g_stage
      logic [WIDTH-1:0] value;
      if (i == 0) begin : g_in
        always_ff @(posedge clk) value <= (RESET && rst) ? '0 : in;
      end else begin : g_chain
        always_ff @(posedge clk) value <= (RESET && rst) ? '0 : g_stage[i-1].value;
      end
    end
    if (CYCLES == 0) begin : g_none
      assign out = in;
    end else begin : g_out
      assign out = g_stage[CYCLES-1].value;
    end
  endgenerate
endmodule
