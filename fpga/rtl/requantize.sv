// One channel from its 32-bit sum to its code, as perception_nodes/core/integer.py defines it.
//
// A pipeline without stalls. Stage n is n cycles after `sum`; parameters are given at the stage
// that their names end in. `fixed` comes at stage 13, `code` at stage 33.
module requantize (
    input  logic        clk,
    input  logic [31:0] sum,
    input  logic [31:0] bias_0,
    input  logic [16:0] multiplier_2,
    input  logic [5:0]  shift_7,
    input  logic [3:0]  fraction_13,
    input  logic [1:0]  activation_15,
    input  logic [3:0]  fraction_15,
    input  logic [3:0]  fraction_18,
    input  logic [7:0]  residual_21,
    input  logic [16:0] residual_multiplier_21,
    input  logic [16:0] store_multiplier_25,
    input  logic [5:0]  store_shift_27,
    output logic [17:0] fixed,
    output logic [7:0]  code
);
  // acc = sum + bias
  logic [31:0] acc;
  add_pipelined #(.WIDTH(32)) add_bias (.clk, .a(sum), .b(bias_0), .sum(acc));

  // acc x multiplier: two DSPs, the high and the low half.
  logic signed [15:0] acc_high;
  logic signed [16:0] acc_low;
  logic signed [17:0] multiplier;
  logic signed [33:0] high_product, high_5;
  logic signed [34:0] low_product, low_5;
  logic [16:0] middle;
  logic [15:0] low_6;
  logic [16:0] high_6;
  logic carry_6;
  logic unused_bits;
  assign unused_bits = &{high_5[33], low_5[34:33]};
  logic [49:0] product;
  always_ff @(posedge clk) begin
    acc_high <= acc[31:16];
    acc_low <= {1'b0, acc[15:0]};
    multiplier <= {1'b0, multiplier_2};
    high_product <= acc_high * multiplier;
    low_product <= acc_low * multiplier;
    high_5 <= high_product;
    low_5 <= low_product;
    middle <= {1'b0, high_5[15:0]} + {1'b0, low_5[31:16]};
    low_6 <= low_5[15:0];
    high_6 <= high_5[32:16];
    carry_6 <= low_5[32];
    product <= {{high_6[16], high_6} + 18'(middle[16]) + 18'(carry_6), middle[15:0], low_6};
  end

  round_shift #(.IN(50), .OUT(18), .STEPS(3)) to_fixed (
      .clk, .value(product), .shift(shift_7), .out(fixed)
  );

  // value = RHE(fixed x factor, F); the factor is 8 x 2^F or min(max(fixed + 3 x 2^F, 0), 6 x 2^F).
  logic [18:0] three_13;
  logic signed [16:0] low_14;
  logic signed [2:0] three_high_14;
  logic [17:0] fixed_14, fixed_15;
  logic large_14, large_15;
  logic [19:0] raised_15;
  logic signed [17:0] fixed_16;
  logic signed [19:0] factor_16;
  logic signed [37:0] product_17, product_18;
  assign three_13 = 19'd3 << fraction_13;
  always_ff @(posedge clk) begin
    low_14 <= {1'b0, fixed[15:0]} + {1'b0, three_13[15:0]};
    three_high_14 <= three_13[18:16];
    fixed_14 <= fixed;
    // fixed >= 3 x 2^F, without a comparison: what is left above F bits is 3 or more.
    large_14 <= !fixed[17] && ((18'(fixed) >> fraction_13) >> 2 != '0
                               || (18'(fixed) >> fraction_13) == 18'd3);

    raised_15 <= {{{2{fixed_14[17]}}, fixed_14[17:16]} + {1'b0, three_high_14} + 4'(low_14[16]),
                  low_14[15:0]};
    fixed_15 <= fixed_14;
    large_15 <= large_14;

    fixed_16 <= fixed_15;
    case (activation_15)
      layout::ACTIVATION_HARDSWISH:
      factor_16 <= raised_15[19] ? '0 : large_15 ? 20'd6 << fraction_15 : raised_15;
      layout::ACTIVATION_RELU: factor_16 <= fixed_15[17] ? '0 : 20'd8 << fraction_15;
      default: factor_16 <= 20'd8 << fraction_15;
    endcase

    product_17 <= fixed_16 * factor_16;
    product_18 <= product_17;
  end

  logic [21:0] value;
  round_shift #(.IN(38), .OUT(22), .STEPS(2)) to_value (
      .clk, .value(product_18), .shift(fraction_18), .out(value)
  );

  // total = value + residual x its multiplier: 26 bits hold it for any multiplier.
  logic signed [7:0] residual;
  logic signed [17:0] residual_multiplier;
  logic signed [25:0] residual_22, residual_23, total;
  assign residual = residual_21;
  assign residual_multiplier = {1'b0, residual_multiplier_21};
  always_ff @(posedge clk) begin
    residual_22 <= residual * residual_multiplier;
    residual_23 <= residual_22;
  end
  add_pipelined #(.WIDTH(26)) add_residual (
      .clk, .a({{4{value[21]}}, value}), .b(residual_23), .sum(total)
  );

  logic signed [17:0] store_multiplier;
  logic signed [49:0] stored_26, stored_27;
  assign store_multiplier = {1'b0, store_multiplier_25};
  always_ff @(posedge clk) begin
    stored_26 <= total * store_multiplier;
    stored_27 <= stored_26;
  end
  round_shift #(.IN(50), .OUT(8), .STEPS(3)) to_code (
      .clk, .value(stored_27), .shift(store_shift_27), .out(code)
  );
endmodule
