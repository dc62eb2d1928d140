// SAT(RHE(value, shift), OUT): shifted to the right, rounded to nearest with ties to even, and
// limited to OUT bits. Two bits of the shift a cycle. Latency: STEPS + 3 cycles.
module round_shift #(
    parameter int unsigned IN = 50,
    parameter int unsigned OUT = 18,  // even
    parameter int unsigned STEPS = 3  // 3: shifts of 0 to 63; 2: of 0 to 15
) (
    input  logic               clk,
    input  logic [IN-1:0]      value,
    input  logic [2*STEPS-1:0] shift,
    output logic [OUT-1:0]     out
);
  // The value with a bit below for the half; what falls out below that one is `rest`.
  genvar i;
  generate
    for (i = 0; i < STEPS; i = i + 1) begin : g_step
      localparam int unsigned UNIT = 4 ** (STEPS - 1 - i);
      logic signed [IN:0] entering, kept;
      logic rest_before, rest;
      logic [1:0] amount;
      if (i == 0) begin : g_first
        assign entering = {value, 1'b0};
        assign rest_before = 1'b0;
      end else begin : g_next
        assign entering = g_step[i-1].kept;
        assign rest_before = g_step[i-1].rest;
      end
      delay #(.WIDTH(2), .CYCLES(i)) amount_later (
          .clk, .rst(1'b0), .in(shift[2*(STEPS-1-i)+:2]), .out(amount)
      );
      always_ff @(posedge clk) begin
        case (amount)
          2'd0: begin
            kept <= entering;
            rest <= rest_before;
          end
          2'd1: begin
            kept <= entering >>> UNIT;
            rest <= rest_before || entering[UNIT-1:0] != '0;
          end
          2'd2: begin
            kept <= entering >>> (2 * UNIT);
            rest <= rest_before || entering[2*UNIT-1:0] != '0;
          end
          default: begin
            kept <= entering >>> (3 * UNIT);
            rest <= rest_before || entering[3*UNIT-1:0] != '0;
          end
        endcase
      end
    end
  endgenerate

  localparam int unsigned LOW = OUT / 2;
  localparam int unsigned HIGH = OUT - LOW;
  logic [IN:0] shifted;
  logic up, negative, beyond, negative_2, beyond_2, half_full;
  logic [OUT-1:0] floor;
  logic [LOW:0] low;
  logic [HIGH-1:0] high;
  assign shifted = g_step[STEPS-1].kept;
  // One more would be beyond where the high half is at its largest and the low half carries.
  assign half_full = high == {1'b0, {(HIGH - 1) {1'b1}}} && low[LOW];

  always_ff @(posedge clk) begin
    up <= shifted[0] && (g_step[STEPS-1].rest || shifted[1]);
    floor <= shifted[OUT:1];
    negative <= shifted[IN];
    beyond <= shifted[IN:OUT] != {(IN - OUT + 1) {shifted[IN]}};

    low <= {1'b0, floor[LOW-1:0]} + (LOW + 1)'(up);
    high <= floor[OUT-1:LOW];
    negative_2 <= negative;
    beyond_2 <= beyond;

    if (beyond_2 || half_full) out <= {negative_2, {(OUT - 1) {!negative_2}}};
    else out <= {high + HIGH'(low[LOW]), low[LOW-1:0]};
  end
endmodule
