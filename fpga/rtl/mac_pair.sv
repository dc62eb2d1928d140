// Two output channels of a block: 16 multipliers, each making two products of one code.
//
// The 27-bit port of a DSP takes odd * 2^18 + even, the 18-bit one the code; 2^17 is added to
// the product so that the even half cannot borrow from the odd one. The products' low 12 bits
// and high 4 bits are summed apart: no adder is wider than 16 bits.
// Latency from `codes`: 7 cycles.
module mac_pair (
    input  logic         clk,
    input  logic [127:0] codes,
    input  logic         take,   // the next cycle is the last one with the present weights
    input  logic [127:0] even,
    input  logic [127:0] odd,
    output logic [19:0]  even_sum,
    output logic [19:0]  odd_sum
);
  logic [16*12-1:0] even_low, odd_low;
  logic [16*4-1:0] even_high, odd_high;

  // Copies of this register, one a pair, spare it a fan-out of thousands.
  (* keep = "true" *) logic take_1;
  always_ff @(posedge clk) take_1 <= take;

  genvar i;
  generate
    for (i = 0; i < 16; i = i + 1) begin : g_dsp
      logic signed [7:0] code;
      logic signed [8:0] odd_weight;
      logic signed [26:0] weight;
      logic signed [34:0] product, result;
      logic unused_bits;
      assign unused_bits = &{result[34], result[17:16]};
      assign code = codes[8*i+:8];
      assign odd_weight = {odd[8*i+7], odd[8*i+:8]} - 9'(even[8*i+7]);
      always_ff @(posedge clk) begin
        if (take_1) weight <= {odd_weight, {10{even[8*i+7]}}, even[8*i+:8]};
        product <= code * weight;
        result  <= product + 35'sd131072;
      end
      assign even_low[12*i+:12] = result[11:0];
      assign even_high[4*i+:4]  = result[15:12];
      assign odd_low[12*i+:12]  = result[29:18];
      assign odd_high[4*i+:4]   = result[33:30];
    end
  endgenerate

  logic [15:0] even_low_sum, odd_low_sum;
  logic [7:0] even_high_sum, odd_high_sum;
  sum16 #(.WIDTH(12)) sum_even_low (.clk, .terms(even_low), .sum(even_low_sum));
  sum16 #(.WIDTH(12)) sum_odd_low (.clk, .terms(odd_low), .sum(odd_low_sum));
  sum16 #(.WIDTH(4), .SIGNED(1)) sum_even_high (.clk, .terms(even_high), .sum(even_high_sum));
  sum16 #(.WIDTH(4), .SIGNED(1)) sum_odd_high (.clk, .terms(odd_high), .sum(odd_high_sum));

  always_ff @(posedge clk) begin
    even_sum <= {even_high_sum + {4'd0, even_low_sum[15:12]}, even_low_sum[11:0]};
    odd_sum  <= {odd_high_sum + {4'd0, odd_low_sum[15:12]}, odd_low_sum[11:0]};
  end
endmodule
