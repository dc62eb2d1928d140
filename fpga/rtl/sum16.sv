// The sum of 16 numbers, two by two, a register behind every adder. Latency: 4 cycles.
module sum16 #(
    parameter int unsigned WIDTH = 12,
    parameter bit SIGNED = 0
) (
    input  logic                clk,
    input  logic [16*WIDTH-1:0] terms,
    output logic [WIDTH+3:0]    sum
);
  genvar i;
  generate
    for (i = 0; i < 8; i = i + 1) begin : g_a
      logic [WIDTH-1:0] x, y;
      logic [WIDTH:0] s;
      assign x = terms[2*i*WIDTH+:WIDTH];
      assign y = terms[(2*i+1)*WIDTH+:WIDTH];
      always_ff @(posedge clk) s <= {SIGNED & x[WIDTH-1], x} + {SIGNED & y[WIDTH-1], y};
    end
    for (i = 0; i < 4; i = i + 1) begin : g_b
      logic [WIDTH:0] x, y;
      logic [WIDTH+1:0] s;
      assign x = g_a[2*i].s;
      assign y = g_a[2*i+1].s;
      always_ff @(posedge clk) s <= {SIGNED & x[WIDTH], x} + {SIGNED & y[WIDTH], y};
    end
    for (i = 0; i < 2; i = i + 1) begin : g_c
      logic [WIDTH+1:0] x, y;
      logic [WIDTH+2:0] s;
      assign x = g_b[2*i].s;
      assign y = g_b[2*i+1].s;
      always_ff @(posedge clk) s <= {SIGNED & x[WIDTH+1], x} + {SIGNED & y[WIDTH+1], y};
    end
  endgenerate

  logic [WIDTH+2:0] left, right;
  assign left  = g_c[0].s;
  assign right = g_c[1].s;
  always_ff @(posedge clk)
    sum <= {SIGNED & left[WIDTH+2], left} + {SIGNED & right[WIDTH+2], right};
endmodule
