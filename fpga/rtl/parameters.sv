// The parameters of the groups in work: ENTRIES records of nine beats, written in the order in
// which they come and read by the drain.
//
// Every reader names its entry; the answer is a register, a cycle later.
module parameters #(
    parameter int unsigned ENTRIES = 16
) (
    input  logic                       clk,
    input  logic                       rst,
    input  logic                       data_valid,
    input  logic [127:0]               data,
    input  logic [$clog2(ENTRIES)-1:0] bias_entry,
    output logic [511:0]               bias,
    input  logic [$clog2(ENTRIES)-1:0] multiplier_entry,
    output logic [271:0]               multiplier,
    input  logic [$clog2(ENTRIES)-1:0] rest_entry,
    output logic [5:0]                 shift,
    output logic [3:0]                 fraction,
    output logic [1:0]                 activation,
    output logic [16:0]                residual_multiplier,
    output logic [16:0]                store_multiplier,
    output logic [5:0]                 store_shift
);
  localparam int unsigned BITS = $clog2(ENTRIES);

  logic [3:0] beat;
  logic [BITS-1:0] entry;
  always_ff @(posedge clk) begin
    if (rst) begin
      beat  <= '0;
      entry <= '0;
    end else if (data_valid) begin
      beat <= beat == 4'd8 ? 4'd0 : beat + 4'd1;
      if (beat == 4'd8) entry <= entry + 1'b1;
    end
  end

  genvar i;
  generate
    for (i = 0; i < 4; i = i + 1) begin : g_beat
      logic [127:0] biases[0:ENTRIES-1];
      logic [67:0] multipliers[0:ENTRIES-1];
      always_ff @(posedge clk) begin
        if (data_valid && beat == 4'(i)) biases[entry] <= data;
        bias[128*i+:128] <= biases[bias_entry];
      end
      always_ff @(posedge clk) begin
        if (data_valid && beat == 4'(i + 4))
          multipliers[entry] <= {data[112:96], data[80:64], data[48:32], data[16:0]};
        multiplier[68*i+:68] <= multipliers[multiplier_entry];
      end
    end
  endgenerate

  logic [51:0] rests[0:ENTRIES-1];
  logic [51:0] rest;
  always_ff @(posedge clk) begin
    if (data_valid && beat == 4'd8)
      rests[entry] <= {
        data[layout::PARAMETER_SHIFT+:6],
        data[layout::PARAMETER_FRACTION+:4],
        data[layout::PARAMETER_ACTIVATION+:2],
        data[layout::PARAMETER_RESIDUAL_MULTIPLIER+:17],
        data[layout::PARAMETER_STORE_MULTIPLIER+:17],
        data[layout::PARAMETER_STORE_SHIFT+:6]
      };
    rest <= rests[rest_entry];
  end
  assign {shift, fraction, activation, residual_multiplier, store_multiplier, store_shift} = rest;
endmodule
