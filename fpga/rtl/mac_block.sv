// 16 input x 16 output channels: the products of one pixel's 16 codes, summed by output channel.
//
// The next weights are written row by row (a row: one output channel) while the array works with
// the present ones; `take` makes them the present ones together with the codes of the next cycle.
// Latency from `codes` to `sums`: 8 cycles.
module mac_block (
    input  logic         clk,
    input  logic         row_write,
    input  logic [3:0]   row,
    input  logic [127:0] row_weights,
    input  logic         take,
    input  logic [127:0] codes,
    output logic [319:0] sums
);
  logic [127:0] present_codes;
  always_ff @(posedge clk) present_codes <= codes;

  genvar i;
  generate
    for (i = 0; i < 8; i = i + 1) begin : g_pair
      logic [127:0] even, odd;
      always_ff @(posedge clk) begin
        if (row_write && row == 4'(2 * i)) even <= row_weights;
        if (row_write && row == 4'(2 * i + 1)) odd <= row_weights;
      end
      mac_pair pair (
          .clk,
          .codes(present_codes),
          .take,
          .even,
          .odd,
          .even_sum(sums[40*i+:20]),
          .odd_sum(sums[40*i+20+:20])
      );
    end
  endgenerate
endmodule
