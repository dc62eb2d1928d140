// Cuts a region of memory into bursts of at most 16 beats that cross no 256-byte boundary.
//
// A region begins at base + offset (`fresh`), where the last fresh or continued one began
// (`again`), or where the last one ended (neither). Addresses are added 16 bits a cycle.
module regions (
    input  logic        clk,
    input  logic        rst,
    input  logic        start,   // ignored while busy
    input  logic        fresh,
    input  logic        again,
    input  logic [39:0] base,
    input  logic [31:0] offset,
    input  logic [23:0] beats,   // 1 at least
    output logic        busy,
    output logic        valid,
    input  logic        ready,
    output logic [39:0] address,
    output logic [4:0]  length   // beats
);
  localparam logic [2:0] IDLE = 3'd0, LOW = 3'd1, MIDDLE = 3'd2, HIGH = 3'd3, BURST = 3'd4;

  logic [2:0] state;
  logic [39:0] begun;
  logic [31:0] summand;   // still to be added to the address
  logic carry, carry_left, beginning;
  logic [23:0] left;
  logic [4:0] to_boundary;
  logic [16:0] low, middle, left_low;

  assign busy = state != IDLE;
  assign valid = state == BURST;
  assign to_boundary = 5'd16 - {1'b0, address[7:4]};
  assign low = {1'b0, address[15:0]} + {1'b0, summand[15:0]};
  assign middle = {1'b0, address[31:16]} + {1'b0, summand[31:16]} + 17'(carry);
  assign left_low = {1'b0, left[15:0]} - 17'(length);

  always_ff @(posedge clk) begin
    case (state)
      IDLE: begin
        if (start && fresh) address <= base;
        if (start && again) address <= begun;
        summand <= fresh ? offset : '0;
        left <= beats;
        beginning <= 1'b1;
      end
      LOW: begin
        address[15:0] <= low[15:0];
        carry <= low[16];
      end
      MIDDLE: begin
        address[31:16] <= middle[15:0];
        carry <= middle[16];
        left[23:16] <= left[23:16] - 8'(carry_left);
      end
      HIGH: begin
        address[39:32] <= address[39:32] + 8'(carry);
        length <= left[23:5] == '0 && left[4:0] < to_boundary ? left[4:0] : to_boundary;
      end
      default: begin
        if (beginning) begun <= address;
        if (ready) begin
          beginning <= 1'b0;
          summand <= {23'd0, length, 4'd0};
          left[15:0] <= left_low[15:0];
        end
      end
    endcase
    carry_left <= valid && ready && left_low[16];
    if (state == LOW) carry_left <= carry_left;
  end

  always_ff @(posedge clk) begin
    if (rst) state <= IDLE;
    else begin
      case (state)
        IDLE: if (start) state <= LOW;
        LOW: state <= MIDDLE;
        MIDDLE: state <= HIGH;
        HIGH: state <= left == '0 ? IDLE : BURST;
        default: if (ready) state <= LOW;
      endcase
    end
  end
endmodule
